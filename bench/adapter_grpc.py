"""GetMetrics calls per second of the KEDA scaler on one core: 10,000 wishes, TLS, while the loop publishes.

The server is a process of its own, bound to one core; the clients are processes on the others. What counts is the rate
that the server's own CPU time allows (calls / CPU seconds), beside what the clients got out of it on this machine.

    python bench/adapter_grpc.py [--seconds 10] [--wishes 10000] [--plain] [--clients 1]
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from metrics_adapter.board import ROLE_LABEL, WORKLOAD_LABEL, Board, Limits, Metric, Published, Wish
from metrics_adapter.exposition import Telemetry
from metrics_adapter.keda import SERVICE, Scaler
from metrics_adapter.keda_externalscaler_pb2 import GetMetricsRequest, GetMetricsResponse, ScaledObjectRef
from metrics_adapter.keda_server import GrpcTls, KedaServer
from metrics_adapter.tls import self_signed

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

TARGET = 2_500.0
IN_FLIGHT = 64
PUBLISHED_EVERY = 5.0


def serve(pipe: Connection, wishes: int, folder: str | None, core: int) -> None:
    """The server's process: publishes until told to stop, then tells its CPU seconds and memory."""
    os.sched_setaffinity(0, {core})
    board = Board(Limits(30, 60), time.time)
    roles = [
        Wish("serving", {WORKLOAD_LABEL: f"pool-{index}", ROLE_LABEL: "decode"}, {Metric.DESIRED: float(index % 60)})
        for index in range(wishes)
    ]
    board.publish(Published(time.time(), tuple(roles)))
    tls = GrpcTls(Path(folder) / "tls.crt", Path(folder) / "tls.key") if folder else None
    with KedaServer(Scaler(board, Telemetry(board)), "127.0.0.1", 0, tls) as server:
        pipe.send(server.address)
        began = time.process_time()
        while not pipe.poll(PUBLISHED_EVERY):
            board.publish(Published(time.time(), tuple(roles)))
        pipe.recv()
        pipe.send((time.process_time() - began, _resident_mib()))


def call(address: str, ca: bytes | None, wishes: int, seconds: float, pipe: Connection) -> None:
    """A client's process: 64 calls in flight for some seconds; tells how many were answered and their latencies."""
    pipe.send(asyncio.run(_calls(address, ca, wishes, seconds)))


async def _calls(address: str, ca: bytes | None, wishes: int, seconds: float) -> list[float]:
    credentials = grpc.ssl_channel_credentials(ca) if ca else None
    opened = grpc.aio.secure_channel(address, credentials) if credentials else grpc.aio.insecure_channel(address)
    latencies: list[float] = []
    async with opened as channel:
        ask = channel.unary_unary(f"/{SERVICE}/GetMetrics")
        end = time.perf_counter() + seconds

        async def worker(first: int) -> None:
            index = first
            while (began := time.perf_counter()) < end:
                answer = await ask(_request(index % wishes), timeout=10)
                latencies.append(time.perf_counter() - began)
                index += IN_FLIGHT
            if (
                GetMetricsResponse.FromString(answer).metricValues[0].metricValueFloat
                != (index - IN_FLIGHT) % wishes % 60
            ):
                raise RuntimeError(f"a wrong number for pool-{index}")

        await asyncio.gather(*(worker(first) for first in range(IN_FLIGHT)))
    return latencies


def _request(index: int) -> bytes:
    ref = ScaledObjectRef(
        name="so", namespace="serving", scalerMetadata={"pool": f"pool-{index}", "scalerAddress": "tidegate:9443"}
    )
    return GetMetricsRequest(scaledObjectRef=ref, metricName="tidegate-desired-replicas").SerializeToString()


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> int:
    """Measure; 1 when the CPU time does not allow the target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--wishes", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--plain", action="store_true", help="no TLS")
    given = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        made = None if given.plain else self_signed(Path(folder), ("localhost", "127.0.0.1"), time.time())
        ours, theirs = context.Pipe()
        server = context.Process(target=serve, args=(theirs, given.wishes, folder if made else None, cores[-1]))
        server.start()
        address = ours.recv()
        latencies: list[float] = []
        clients = []
        for _ in range(given.clients):
            here, there = context.Pipe()
            ca = made.ca_bundle.encode() if made else None
            client = context.Process(target=call, args=(address, ca, given.wishes, given.seconds, there))
            client.start()
            clients.append((client, here))
        for client, here in clients:
            latencies += here.recv()
            client.join()
        ours.send("stop")
        cpu, resident = ours.recv()
        server.join()
    return _told(latencies, given.seconds, cpu, resident)


def _told(latencies: list[float], seconds: float, cpu: float, resident: float) -> int:
    allowed = len(latencies) / cpu
    cuts = statistics.quantiles(latencies, n=100)
    print(f"calls answered           {len(latencies):>10,}")
    print(f"got here                 {len(latencies) / seconds:>10,.0f} /s (clients and machine included)")
    print(f"server CPU               {cpu / len(latencies) * 1e6:>10,.0f} us a call, publishing included")
    print(f"one core allows          {allowed:>10,.0f} /s (target {TARGET:,.0f})")
    print(f"latency p50, p99         {cuts[49] * 1e3:>10,.1f} ms, {cuts[98] * 1e3:,.1f} ms with {IN_FLIGHT} in flight")
    print(f"server memory            {resident:>10,.0f} MiB")
    return 0 if allowed >= TARGET else 1


if __name__ == "__main__":
    raise SystemExit(main())

"""KEDA's external scaler: the five calls of package `externalscaler`, answered from the board.

| situation         | GetMetricSpec | GetMetrics          | IsActive       | StreamIsActive          |
|-------------------|---------------|---------------------|----------------|-------------------------|
| n >= 1 wanted     | target 1      | n                   | true           | true on change          |
| 0 wanted          | target 1      | 0                   | false          | false on change         |
| stale, blind      | target 1      | UNAVAILABLE, why    | last known     | stays open              |
| unknown, disabled | target 1      | NOT_FOUND, why      | NOT_FOUND      | ends with NOT_FOUND     |
| before any tick   | target 1      | UNAVAILABLE         | UNAVAILABLE    | ends with UNAVAILABLE   |
| bad metadata      | target 1      | INVALID_ARGUMENT    | same           | ends with it            |

The spec never fails: without it KEDA's `fallback` cannot fire, and before KEDA 2.20 the ScaledObject gets a CPU metric
it never loses. An unknown pool is an error and not "inactive", which would scale it to zero. `Scaler` is the pure part
(bytes in, bytes or a problem out); `ExternalScaler` puts it behind gRPC.
"""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import grpc
import structlog
from google.protobuf.message import DecodeError

from metrics_adapter.board import Refusal, RefusalKind
from metrics_adapter.keda_externalscaler_pb2 import (
    DESCRIPTOR,
    GetMetricSpecResponse,
    GetMetricsRequest,
    GetMetricsResponse,
    IsActiveResponse,
    MetricSpec,
    MetricValue,
    ScaledObjectRef,
)
from metrics_adapter.keda_trigger import BadTrigger, Trigger, activity, reply, shown, strangers, trigger

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import ThreadPoolExecutor

    from metrics_adapter.board import Board, Freshness

_log = structlog.get_logger(__name__)

SERVICE = DESCRIPTOR.services_by_name["ExternalScaler"].full_name
METRIC_NAME = "tidegate-desired-replicas"
"""As KEDA wants names: lower case, digits and hyphens, below 50 characters."""
MOST_STREAMS = 10_000
MOST_MESSAGE = 512
_LARGEST_INT = 2**63 - 1
_OURS = re.compile(rf"(s[0-9]+-)?{METRIC_NAME}")
"""KEDA strips the `s0-` that it puts in front for the HPA; some versions forgot."""

_ACTIVE = IsActiveResponse(result=True).SerializeToString()
_IDLE = IsActiveResponse(result=False).SerializeToString()
_SPEC = GetMetricSpecResponse(
    metricSpecs=[MetricSpec(metricName=METRIC_NAME, targetSize=1, targetSizeFloat=1.0)]
).SerializeToString()
_Message = TypeVar("_Message", ScaledObjectRef, GetMetricsRequest)
_CODES = {
    RefusalKind.UNKNOWN: grpc.StatusCode.NOT_FOUND,
    RefusalKind.DISABLED: grpc.StatusCode.NOT_FOUND,
}


class ScalerMeter(Protocol):
    """Whoever counts calls and what was read from the board."""

    def rpc(self, method: str, code: str, seconds: float) -> None:
        """One finished call."""

    def served(self, freshness: Freshness) -> None:
        """One answer with a number was given."""

    def refused(self, kind: RefusalKind) -> None:
        """One answer was refused."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A gRPC status other than OK."""

    code: grpc.StatusCode
    message: str


_GONE = Problem(grpc.StatusCode.UNAVAILABLE, "this replica shuts down; connect again")


@dataclass(frozen=True, slots=True)
class Scaler:
    """Requests to answers, both as serialised messages.

    `strict` lets GetMetricSpec refuse metadata it cannot act on, so that the ScaledObject cannot be made.
    """

    board: Board
    meter: ScalerMeter
    strict: bool = False

    def spec(self, raw: bytes) -> bytes | Problem:
        """GetMetricSpec: one metric, target 1, whatever is asked."""
        if self.strict:
            ref = _parsed(ScaledObjectRef, raw)
            if isinstance(ref, Problem):
                return ref
            unread = next(strangers(ref.scalerMetadata), None)
            asked = trigger(ref.namespace, ref.scalerMetadata)
            if unread is not None or isinstance(asked, BadTrigger):
                return _invalid(unread or str(getattr(asked, "message", "")))
        return _SPEC

    def metrics(self, raw: bytes) -> bytes | Problem:
        """GetMetrics: exactly one value, for KEDA hands on all it gets and the HPA adds them up."""
        request = _parsed(GetMetricsRequest, raw)
        if isinstance(request, Problem):
            return request
        name = request.metricName
        if name and not _OURS.fullmatch(name):
            return _invalid(f"metricName {shown(name)}: this scaler has one metric, {METRIC_NAME}")
        ref = request.scaledObjectRef
        asked = trigger(ref.namespace, ref.scalerMetadata)
        if isinstance(asked, BadTrigger):
            return _invalid(asked.message)
        found = reply(self.board, asked)
        if isinstance(found, BadTrigger):
            return _invalid(found.message)
        if isinstance(found, Refusal):
            self.meter.refused(found.kind)
            return _refused(found)
        self.meter.served(found.freshness)
        whole = min(math.ceil(found.replicas), _LARGEST_INT)
        value = MetricValue(metricName=METRIC_NAME, metricValue=whole, metricValueFloat=found.replicas)
        return GetMetricsResponse(metricValues=[value]).SerializeToString()

    def active(self, raw: bytes) -> bytes | Problem:
        """IsActive: whether any replica is wanted."""
        asked = self.asked(raw)
        return asked if isinstance(asked, Problem) else self.state(asked)

    def asked(self, raw: bytes) -> Trigger | Problem:
        """The trigger of a ScaledObjectRef."""
        ref = _parsed(ScaledObjectRef, raw)
        if isinstance(ref, Problem):
            return ref
        found = trigger(ref.namespace, ref.scalerMetadata)
        return _invalid(found.message) if isinstance(found, BadTrigger) else found

    def state(self, asked: Trigger) -> bytes | Problem:
        """The IsActiveResponse for a trigger."""
        found = activity(self.board, asked)
        if isinstance(found, BadTrigger):
            return _invalid(found.message)
        if isinstance(found, Refusal):
            return _refused(found)
        return _ACTIVE if found else _IDLE


@dataclass(slots=True, eq=False)
class _Stream:
    """One open StreamIsActive; `told` is the state the client knows, `send(None)` ends the call."""

    asked: Trigger
    context: grpc.ServicerContext
    send: Callable[[bytes | None], None]
    told: bytes | None = None
    lock: Lock = field(default_factory=Lock)


class ExternalScaler:
    """The calls as gRPC handlers. An open stream holds no thread: `published` walks over all of them.

    gRPC's handlers for asyncio take 1.7 times the CPU a call (390 against 221 us here), hence threads; its streams
    would hold one thread each, hence the non-blocking form that gRPC's own health service is written in.
    """

    def __init__(self, scaler: Scaler, pool: ThreadPoolExecutor, most_streams: int = MOST_STREAMS) -> None:
        self.scaler = scaler
        self._pool = pool
        self._most_streams = most_streams
        self._lock = Lock()
        self._streams: set[_Stream] = set()
        self._specs: dict[grpc.ServicerContext, Callable[[bytes | None], None]] = {}
        self._closing = False

    @property
    def streams(self) -> int:
        """How many are open."""
        return len(self._streams) + len(self._specs)

    def handler(self) -> grpc.GenericRpcHandler:
        """What a server adds. Messages stay bytes: one that cannot be parsed is INVALID_ARGUMENT, not UNKNOWN."""
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "IsActive": unary(self._unary("IsActive", self.scaler.active)),
                "GetMetricSpec": unary(self._unary("GetMetricSpec", self.scaler.spec)),
                "GetMetrics": unary(self._unary("GetMetrics", self.scaler.metrics)),
                "StreamIsActive": stream(self._unblocking(self._stream_is_active)),
                "StreamMetricSpec": stream(self._unblocking(self._stream_metric_spec)),
            },
        )

    def published(self) -> None:
        """There is a new snapshot: look again, every stream."""
        with self._lock:
            streams = tuple(self._streams)
        for stream in streams:
            self._look(stream)

    def close(self) -> None:
        """End all streams; new ones are refused."""
        with self._lock:
            self._closing = True
            streams, specs = tuple(self._streams), dict(self._specs)
        for stream in streams:
            self._end("StreamIsActive", _GONE, stream.context, stream.send)
        for context, send in specs.items():
            self._end("StreamMetricSpec", _GONE, context, send)

    def _unary(self, method: str, answer: Callable[[bytes], bytes | Problem]) -> Any:
        meter = self.scaler.meter

        def handle(raw: bytes, context: grpc.ServicerContext) -> bytes:
            began = time.perf_counter()
            try:
                found = answer(raw)
            except Exception:  # noqa: BLE001 - the last line of defence: any bug becomes INTERNAL and a log entry
                _log.exception("call failed", method=method)
                found = Problem(grpc.StatusCode.INTERNAL, "internal error; the reason is in Tidegate's log")
            code = found.code if isinstance(found, Problem) else grpc.StatusCode.OK
            meter.rpc(method, code.name, time.perf_counter() - began)
            if isinstance(found, Problem):
                context.abort(found.code, _cut(found.message))
            return found

        return handle

    def _unblocking(self, handle: Callable[[bytes, grpc.ServicerContext, Callable[[bytes | None], None]], None]) -> Any:
        """A handler that returns while its call goes on, run where it cannot keep unary calls waiting."""

        def behaviour(raw: bytes, context: grpc.ServicerContext, send: Callable[[bytes | None], None]) -> None:
            handle(raw, context, send)

        behaviour.experimental_non_blocking = True  # type: ignore[attr-defined]  # gRPC's way to ask for it
        behaviour.experimental_thread_pool = self._pool  # type: ignore[attr-defined]  # likewise
        return behaviour

    def _stream_is_active(
        self, raw: bytes, context: grpc.ServicerContext, send: Callable[[bytes | None], None]
    ) -> None:
        """The state at once, then at every change, until the pool is gone or we are."""
        asked = self.scaler.asked(raw)
        problem = asked if isinstance(asked, Problem) else self._full()
        if problem is not None or isinstance(asked, Problem):
            self._end("StreamIsActive", problem or _GONE, context, send)
            return
        stream = _Stream(asked, context, send)
        with self._lock:
            self._streams.add(stream)
        if not context.add_callback(lambda: self._streams.discard(stream)):
            self._streams.discard(stream)  # over already
            return
        self._look(stream)

    def _stream_metric_spec(
        self, raw: bytes, context: grpc.ServicerContext, send: Callable[[bytes | None], None]
    ) -> None:
        """The spec at once; it never changes, so nothing follows until we shut down."""
        spec = self.scaler.spec(raw)
        problem = spec if isinstance(spec, Problem) else self._full()
        if problem is not None or isinstance(spec, Problem):
            self._end("StreamMetricSpec", problem or _GONE, context, send)
            return
        with self._lock:
            self._specs[context] = send

        def over() -> None:
            self._specs.pop(context, None)

        if context.add_callback(over):
            send(spec)

    def _full(self) -> Problem | None:
        if self._closing:
            return _GONE
        if self.streams < self._most_streams:
            return None
        return Problem(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{self._most_streams} streams are open already")

    def _look(self, stream: _Stream) -> None:
        """Tell one stream what is new; sending waits for the client, so it is left to the pool."""
        state = self.scaler.state(stream.asked)
        if isinstance(state, Problem):
            if stream.told is None or state.code is not grpc.StatusCode.UNAVAILABLE:
                self._end("StreamIsActive", state, stream.context, stream.send)
        elif state != stream.told:
            self._pool.submit(self._push, stream)

    def _push(self, stream: _Stream) -> None:
        if not stream.lock.acquire(blocking=False):
            return  # still busy with the state before; the next look compares again
        try:
            state = self.scaler.state(stream.asked)
            if isinstance(state, bytes) and state != stream.told:
                stream.send(state)
                stream.told = state
        finally:
            stream.lock.release()

    def _end(
        self, method: str, problem: Problem, context: grpc.ServicerContext, send: Callable[[bytes | None], None]
    ) -> None:
        self.scaler.meter.rpc(method, problem.code.name, 0.0)
        context.set_code(problem.code)
        context.set_details(_cut(problem.message))
        send(None)


def _cut(text: str) -> str:
    return text if len(text) <= MOST_MESSAGE else text[: MOST_MESSAGE - 3] + "..."


def _parsed(kind: type[_Message], raw: bytes) -> _Message | Problem:
    try:
        return kind.FromString(raw)
    except DecodeError:
        return _invalid(f"the request is no {kind.DESCRIPTOR.full_name}")


def _invalid(message: str) -> Problem:
    return Problem(grpc.StatusCode.INVALID_ARGUMENT, message)


def _refused(refusal: Refusal) -> Problem:
    return Problem(_CODES.get(refusal.kind, grpc.StatusCode.UNAVAILABLE), refusal.message)

"""An HPA's eyes: asks the external metrics API over TLS and turns whatever comes back into an answer or a reason."""

from __future__ import annotations

import asyncio
import json
import ssl
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING

import aiohttp

from autoscaler.demo.quantity import milli
from autoscaler.policies.hpa_maths import HpaMemory, Policy, PolicyKind, ScalingRules
from autoscaler.policies.hpa_sync import HpaSpec, HpaStatus, NotServed, Served, sync

if TYPE_CHECKING:
    from pathlib import Path

    from autoscaler.demo.config import HpaConfig, RoleConfig

_LARGEST_ANSWER_BYTES = 1 << 20
_SHOWN = 300


def read_answer(status: int, body: bytes) -> Served | NotServed:
    """What the HPA makes of an HTTP answer of the external metrics API.

    Anything but 200 with at least one readable item is no answer, and says why in the server's own words where it has
    any. The items' timestamps are not looked at: the real controller obeys old ones too.
    """
    text = body.decode("utf-8", "replace")
    try:
        payload: object = json.loads(text)
    except (ValueError, RecursionError):
        payload = None
    if status != HTTPStatus.OK:
        message = payload.get("message") if isinstance(payload, dict) else None
        if not isinstance(message, str):
            message = f'an error on the server ("{text[:_SHOWN].strip()}") has prevented the request from succeeding'
        return _failed(message)
    items = payload.get("items") if isinstance(payload, dict) else None
    if not isinstance(items, list):
        return _failed(f"the answer is no ExternalMetricValueList: {text[:_SHOWN]!r}")
    if not items:
        return NotServed("no metrics returned from external metrics API")
    values: list[int] = []
    for item in items:
        if not isinstance(item, dict) or "value" not in item:
            return _failed(f"an item has no value: {str(item)[:_SHOWN]}")
        try:
            values.append(milli(item["value"]))
        except ValueError as error:
            return _failed(str(error))
    return Served(tuple(values))


def _failed(message: str) -> NotServed:
    return NotServed(f"unable to fetch metrics from external metrics API: {message}")


class ExternalMetricClient:
    """GETs one metric of the API. Reads its certificates anew when the files change: a restarted server has new ones.

    Raises nothing on a failed request: a failure is a `NotServed`.
    """

    def __init__(self, config: HpaConfig, session: aiohttp.ClientSession) -> None:
        self._config = config
        self._session = session
        self._context: ssl.SSLContext | None = None
        self._stamp: tuple[int, ...] = ()

    async def get(self, namespace: str, selector: str) -> Served | NotServed:
        """The current value for a label selector."""
        config = self._config
        base = (config.base_url or "").rstrip("/")
        url = f"{base}/apis/external.metrics.k8s.io/v1beta1/namespaces/{namespace}/{config.metric}"
        timeout = aiohttp.ClientTimeout(total=config.timeout_seconds)
        query = {"labelSelector": selector}
        try:
            context = self._tls() if base.startswith("https:") else False
            async with self._session.get(
                url, params=query, ssl=context, timeout=timeout, allow_redirects=False
            ) as answer:
                body = await answer.content.read(_LARGEST_ANSWER_BYTES)
                return read_answer(answer.status, body)
        except TimeoutError:
            return _failed(f"no answer from {base} within {config.timeout_seconds:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return _failed(f"{type(error).__name__}: {error}")

    def _tls(self) -> ssl.SSLContext:
        config = self._config
        files = [path for path in (config.ca_file, config.client_cert_file, config.client_key_file) if path is not None]
        stamp = tuple(_changed_at(path) for path in files)
        if self._context is None or stamp != self._stamp:
            context = ssl.create_default_context(cafile=config.ca_file)
            if config.client_cert_file is not None:
                context.load_cert_chain(config.client_cert_file, config.client_key_file)
            self._context, self._stamp = context, stamp
        return self._context


def _changed_at(path: Path) -> int:
    return path.stat().st_mtime_ns


@dataclass(slots=True)
class Follower:
    """One HPA: its spec, what it remembers, what its status shows.

    Attributes:
        namespace: of the target.
        selector: of the metric.
        spec: bounds and behaviour.
        status: the last sync's; None before the first.
        served_milli: the last readable sum, in thousandths; None before the first.
        synced_at: Unix seconds of the last sync.
        failures: syncs without an answer so far.
    """

    namespace: str
    selector: str
    spec: HpaSpec
    status: HpaStatus | None = None
    served_milli: int | None = None
    synced_at: float | None = None
    failures: int = 0
    _memory: HpaMemory = field(default_factory=HpaMemory)

    def sync(self, now: float, replicas: tuple[int, int], answer: Served | NotServed) -> int:
        """Take an answer in; returns the new spec.replicas. `replicas` is (spec, status)."""
        self.status, self._memory = sync(self.spec, self._memory, now, replicas, answer)
        self.synced_at = now
        if isinstance(answer, Served):
            self.served_milli = sum(answer.milli)
        else:
            self.failures += 1
        return self.status.replicas


def follower(namespace: str, pool: str, role: RoleConfig, config: HpaConfig) -> Follower:
    """The HPA that Tidegate recommends, for one deployment."""
    selector = f"tidegate.dev/workload={pool},tidegate.dev/role={role.role}"
    down = ScalingRules(
        (Policy(PolicyKind.PERCENT, 100, 15),), stabilization_seconds=config.scale_down_stabilization_seconds
    )
    return Follower(namespace, selector, HpaSpec(role.min_replicas, role.max_replicas, down=down))


async def wait_or(stop: asyncio.Event, seconds: float) -> bool:
    """Wait for `seconds` or for `stop`; whether it was `stop`."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return False
    return True

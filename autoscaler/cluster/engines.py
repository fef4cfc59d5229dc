"""The engines in a pool's pods, asked and told one by one over HTTP at their pod's address.

Asked only where it matters which pod goes: what runs there, and what would be lost. Told only to sleep and to wake
(vLLM: `POST /sleep?level=1`, `POST /wake_up`, `GET /is_sleeping`; served with VLLM_SERVER_DEV_MODE=1 and
--enable-sleep-mode). Waking takes seconds, so it is done in threads of its own and found finished later.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING

import structlog
import urllib3

from autoscaler.cluster.api import ApiError
from metrics_adapter.exposition_text import ExpositionError, parse_exposition
from metrics_adapter.scrape_engines import view_target
from metrics_adapter.signals import Signal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from autoscaler.cluster.objects import Pod
    from autoscaler.settings_cluster import ReleaseSettings
    from metrics_adapter.exposition_text import Sample

log = structlog.get_logger(__name__)
LOOK_S = 2.0
"""How long one engine may take to say its metrics: a pool is not held up by one that hangs."""
AT_ONCE = 16
"""Engines asked at the same time."""
TELL_S = 120.0
"""How long sleeping or waking may take: offloading 140 GB over PCIe takes some 10 s, from a busy host a minute."""
POLL_S = 0.25
HITS = ("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total")
QUERIES = ("vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total")
HIT_RATE = "sglang:cache_hit_rate"
WITHOUT_CAPACITY = 1_000_000.0
"""KV tokens assumed of an engine that does not say: costs are compared within a pool, so any common number does."""


@dataclass(frozen=True, slots=True)
class EngineLook:
    """What one pod's engine said of itself.

    Attributes:
        at: Unix seconds. requests: running and waiting; None when not said.
        worth: KV tokens that would be lost with it; None when not said.
    """

    at: float
    requests: float | None
    worth: float | None


def worth(usage: float, capacity: float, hit_rate: float) -> float:
    """KV tokens lost with an engine: those in use, and of the rest, which caches prefixes, the share that is hit.

    worth = capacity x (usage + (1 - usage) x hit rate). Usage 0.25 of 100,000 tokens at a hit rate of 0.4:
    100,000 x (0.25 + 0.75 x 0.4) = 55,000.
    """
    return capacity * (usage + (1.0 - usage) * hit_rate)


def look_of(body: bytes, at: float) -> EngineLook | None:
    """What an exposition says; None when it is none, or of no engine."""
    try:
        samples = parse_exposition(body)
    except ExpositionError:
        return None
    views = [view for view in view_target(samples, at, {}) if view.engines]
    if not views:
        return None

    def total(signal: Signal) -> float | None:
        said = [sum(view.levels[signal][1]) for view in views if signal in view.levels]
        return sum(said) if len(said) == len(views) else None

    running, waiting, usage, room = map(total, (Signal.RUNNING, Signal.WAITING, Signal.KV_USAGE, Signal.KV_CAPACITY))
    requests = running + waiting if running is not None and waiting is not None else None
    if usage is None:
        return EngineLook(at, requests, None)
    capacity = room if room is not None else WITHOUT_CAPACITY * len(views)
    share = min(1.0, max(0.0, usage / len(views)))
    return EngineLook(at, requests, worth(share, capacity, _hit_rate(samples)))


def _hit_rate(samples: Iterable[Sample]) -> float:
    """Share of prompt tokens found in the prefix cache since the engine began, 0..1; 0 when not said."""
    sums: dict[str, float] = {}
    for sample in samples:
        if sample.name in {*HITS, *QUERIES, HIT_RATE} and sample.value >= 0:
            sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    for hits, queries in zip(HITS, QUERIES, strict=True):
        if sums.get(queries):
            return min(1.0, sums.get(hits, 0.0) / sums[queries])
    return min(1.0, sums.get(HIT_RATE, 0.0))


class Engines:
    """Asks and tells engines. Thread-safe.

    Args:
        http: to reach them with.
        clock: Unix seconds.
    """

    def __init__(self, http: urllib3.PoolManager, clock: Callable[[], float] = time.time) -> None:
        self._http, self.clock = http, clock
        self._lock = Lock()
        self._busy: dict[str, Thread] = {}
        self._ended: dict[str, str] = {}
        self._stop = Event()

    def close(self) -> None:
        """Begin nothing more. What was told to an engine goes on there; whoever comes next finds out how it ended."""
        self._stop.set()
        with self._lock:
            running = list(self._busy.values())
        for thread in running:
            thread.join(LOOK_S)

    def look(self, pods: Iterable[Pod], how: ReleaseSettings) -> Mapping[str, EngineLook]:
        """What the engines of these pods say, by pod name; those that say nothing are left out."""
        asked = [pod for pod in pods if pod.ip]
        if not asked:
            return {}
        with ThreadPoolExecutor(min(AT_ONCE, len(asked)), "ask engines") as several:
            answers = several.map(lambda pod: self._look(f"{base(pod, how)}{how.metrics_path}"), asked)
        return {pod.meta.name: look for pod, look in zip(asked, answers, strict=True) if look is not None}

    def _look(self, url: str) -> EngineLook | None:
        try:
            answer = self._http.request("GET", url, timeout=LOOK_S, retries=False)
        except (urllib3.exceptions.HTTPError, OSError):
            return None
        return look_of(answer.data, self.clock()) if answer.status == HTTPStatus.OK else None

    def sleeping(self, url: str) -> bool:
        """Whether the engine at this address sleeps. Raises ApiError."""
        answer = self._ask("GET", f"{url}/is_sleeping", LOOK_S)
        try:
            return bool(json.loads(answer)["is_sleeping"])
        except (ValueError, KeyError, TypeError):
            raise ApiError(502, "Engine", f"{url}/is_sleeping: the answer is not what vLLM says") from None

    def tell(
        self, key: str, url: str, *, sleep: int | None, first: Callable[[], None], then: Callable[[], None]
    ) -> None:
        """Put an engine to sleep at a level, or (None) wake it, in a thread of its own; `ended` says how it went.

        Args:
            key: what it goes by.
            url: of the engine.
            sleep: the level, or None to wake it.
            first: raises ApiError when it must not be told (any more).
            then: called, in that thread, when it is so; may raise ApiError.
        """
        with self._lock:
            if key in self._busy or self._stop.is_set():
                return
            self._ended.pop(key, None)
            thread = Thread(target=self._tell, args=(key, url, sleep, first, then), name=f"tell {url}", daemon=True)
            self._busy[key] = thread
        thread.start()

    def busy(self, key: str) -> bool:
        """Whether it is still being told."""
        with self._lock:
            return key in self._busy

    def ended(self, key: str) -> str | None:
        """Why telling failed, said once; None while it goes on, and when it went well."""
        with self._lock:
            return self._ended.pop(key, None)

    def _tell(self, key: str, url: str, sleep: int | None, first: Callable[[], None], then: Callable[[], None]) -> None:
        failure: str | None = None
        try:
            first()
            self._ask("POST", f"{url}/sleep?level={sleep}" if sleep is not None else f"{url}/wake_up", TELL_S)
            self._await(url, sleeping=sleep is not None)
            then()
        except ApiError as error:
            failure = error.message
        except Exception:  # a thread that dies in silence would leave its engine half told
            log.exception("an engine could not be told", url=url)
            failure = "an internal error; see the log"
        finally:
            with self._lock:
                self._busy.pop(key, None)
                if failure is not None:
                    self._ended[key] = failure

    def _await(self, url: str, *, sleeping: bool) -> None:
        deadline = time.monotonic() + TELL_S
        while self.sleeping(url) != sleeping:
            if time.monotonic() > deadline:
                said = "asleep" if sleeping else "awake"
                raise ApiError(504, "Engine", f"{url} is not {said} after {TELL_S:g} s")
            if self._stop.wait(POLL_S):
                raise ApiError(0, "Engine", "stopping; whoever comes next finds out how it ended")

    def _ask(self, method: str, url: str, timeout_s: float) -> bytes:
        try:
            answer = self._http.request(method, url, timeout=urllib3.Timeout(LOOK_S, timeout_s), retries=False)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ApiError(0, "Engine", f"{method} {url}: {str(error)[:200]}") from None
        if answer.status == HTTPStatus.NOT_FOUND:
            why = "start vLLM with --enable-sleep-mode and VLLM_SERVER_DEV_MODE=1"
            raise ApiError(404, "Engine", f"{method} {url}: not found; {why}")
        if answer.status >= HTTPStatus.MULTIPLE_CHOICES:
            raise ApiError(answer.status, "Engine", f"{method} {url} answered {answer.status}")
        return answer.data


def base(pod: Pod, how: ReleaseSettings) -> str:
    """Where a pod's engine is."""
    host = f"[{pod.ip}]" if ":" in pod.ip else pod.ip
    return f"{how.scheme}://{host}:{how.port}"

"""Our own metrics and health: what Tidegate decided, saw and spent, as Prometheus text.

`Telemetry` counts what the control loop and the servers tell it; what was decided is read from the board at each
scrape, so a pool that is gone from the board is gone from `/metrics` as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING

from fastapi import APIRouter
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import GaugeMetricFamily
from starlette.responses import PlainTextResponse, Response

from metrics_adapter.board import ROLE_LABEL, WORKLOAD_LABEL, Metric
from metrics_adapter.exposition_plan import plan_families, shortage_family, tier_families
from metrics_adapter.wire import READ_ONLY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from starlette.requests import Request

    from metrics_adapter.board import Board, Freshness, RefusalKind, Wish
    from metrics_adapter.exposition_plan import PlanGauges, TierGauges

MAX_LABEL_VALUES = 64
OTHER = "other"
STAGE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
REQUEST_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
POOL = ("namespace", "workload", "role")

_REPLICAS = {
    Metric.DESIRED: "Replicas decided for; held while the pool is blind.",
    Metric.CURRENT: "Replicas that are ready.",
    Metric.STARTING: "Replicas asked for that have not arrived.",
}


class PathClass(StrEnum):
    """What a request was for; the bounded stand-in for its path."""

    HEALTH = "health"
    METRICS = "metrics"
    DISCOVERY = "discovery"
    EXTERNAL = "external"
    KEDA = "keda"
    OPENAPI = "openapi"
    OTHER = "other"


def path_class(path: str) -> PathClass:
    """The class of a decoded path."""
    if path.startswith("/apis/"):
        return PathClass.DISCOVERY if path.count("/") <= 3 else PathClass.EXTERNAL  # noqa: PLR2004 - apis, group, version
    parts = path.split("/")[1:]
    alone = {
        "apis": PathClass.DISCOVERY,
        "healthz": PathClass.HEALTH,
        "readyz": PathClass.HEALTH,
        "livez": PathClass.HEALTH,
    }
    if len(parts) == 1 and parts[0] in {*alone, "metrics"}:
        return alone.get(parts[0], PathClass.METRICS)
    trees = {"keda": PathClass.KEDA, "openapi": PathClass.OPENAPI}
    return trees.get(parts[0] if parts else "", PathClass.OTHER)


@dataclass(frozen=True, slots=True)
class PoolGauges:
    """What the loop reckoned for one pool; None is "not known" and leaves the series out.

    Demand and velocity are in tokens/s (velocity: of one replica); `forecast` holds tokens/s by quantile level
    (0.9, …); `shortage` is in replicas.
    """

    namespace: str
    workload: str
    role: str
    demand: float | None = None
    velocity: float | None = None
    forecast: Mapping[float, float] | None = None
    shortage: float | None = None
    tiers: tuple[TierGauges, ...] = ()


class Telemetry:
    """Counts for one process, on a registry of its own; all methods may be called from any thread."""

    def __init__(self, board: Board) -> None:
        self.registry = CollectorRegistry()
        self._pools: tuple[PoolGauges, ...] = ()
        self._plan: PlanGauges | None = None
        self._seen: dict[str, set[str]] = {}
        into = self.registry
        self._ticks = Counter("tidegate_ticks", "Finished ticks of the control loop.", registry=into)
        self._blind = Counter("tidegate_blind_ticks", "Ticks in which at least one pool was blind.", registry=into)
        self._stages = Histogram(
            "tidegate_tick_stage_seconds",
            "Seconds spent in each stage of a tick; decide is all from learn to record.",
            ["stage"],
            buckets=STAGE_BUCKETS,
            registry=into,
        )
        self._decisions = Counter("tidegate_decisions", "Decisions by kind.", ["kind"], registry=into)
        self._errors = Counter("tidegate_source_errors", "Failed reads of a source.", ["source"], registry=into)
        self._guards = Counter("tidegate_guard_holds", "Wishes a guard held back.", ["guard"], registry=into)
        self._solves = Counter("tidegate_solves", "Solved plans by outcome.", ["status"], registry=into)
        self._solver = Histogram(
            "tidegate_solver_seconds", "Seconds the solver took.", buckets=STAGE_BUCKETS, registry=into
        )
        requests = Counter(
            "tidegate_api_requests", "Requests by class of path and code.", ["path", "code"], registry=into
        )
        request_seconds = Histogram(
            "tidegate_api_request_seconds", "Seconds per request.", ["path"], buckets=REQUEST_BUCKETS, registry=into
        )
        self._rpcs = Counter(
            "tidegate_grpc_requests", "Calls of KEDA's scaler by method and code.", ["method", "code"], registry=into
        )
        self._rpc_seconds = Histogram(
            "tidegate_grpc_request_seconds",
            "Seconds per call of KEDA's scaler.",
            ["method"],
            buckets=REQUEST_BUCKETS,
            registry=into,
        )
        answers = Counter("tidegate_answers", "Metric answers by freshness.", ["freshness"], registry=into)
        # Finding a labelled child takes as long as a tenth of an answer; there are few of them.
        self._requests = lru_cache(lambda path, code: requests.labels(path.value, str(code)))
        self._request_seconds = lru_cache(lambda path: request_seconds.labels(path.value))
        self._answers = lru_cache(lambda freshness: answers.labels(freshness.value))
        self._refusals = Counter("tidegate_refusals", "Refused metric answers by kind.", ["kind"], registry=into)
        into.register(_FromBoard(board, self))

    def ticked(self, stages: Mapping[str, float], *, blind: bool = False) -> None:
        """One tick ended; `stages` holds the seconds of each stage, `blind` whether any pool could not be seen."""
        for stage, seconds in stages.items():
            self.staged(stage, seconds)
        self._ticks.inc()
        if blind:
            self._blind.inc()

    def staged(self, stage: str, seconds: float) -> None:
        """One stage ended; for those that are outside the count of ticks."""
        self._stages.labels(self._bounded("stage", stage)).observe(seconds)

    def decided(self, kind: str) -> None:
        """One decision of this kind ("up", "down", "hold", …)."""
        self._decisions.labels(self._bounded("decision", kind)).inc()

    def source_failed(self, source: str) -> None:
        """One failed read of a source ("prometheus", "scrape", "kubernetes", …)."""
        self._errors.labels(self._bounded("source", source)).inc()

    def guard_held(self, guard: str) -> None:
        """One wish held back by this guard."""
        self._guards.labels(self._bounded("guard", guard)).inc()

    def solved(self, outcome: str, seconds: float | None = None) -> None:
        """One plan, its outcome ("solved", "timed-out", "infeasible", "greedy") and the seconds it took, if known."""
        self._solves.labels(self._bounded("solve", outcome)).inc()
        if seconds is not None:
            self._solver.observe(seconds)

    def reckoned(self, pools: Iterable[PoolGauges], plan: PlanGauges | None = None) -> None:
        """Replace what is shown per pool, and of the plan, by this tick's."""
        self._pools = tuple(pools)
        self._plan = plan

    def request(self, path: PathClass, code: int, seconds: float) -> None:
        """One answered request."""
        self._requests(path, code).inc()
        self._request_seconds(path).observe(seconds)

    def rpc(self, method: str, code: str, seconds: float) -> None:
        """One finished call of KEDA's scaler."""
        self._rpcs.labels(method, code).inc()
        self._rpc_seconds.labels(method).observe(seconds)

    def served(self, freshness: Freshness) -> None:
        """One answer with numbers read from the board."""
        self._answers(freshness).inc()

    def refused(self, kind: RefusalKind) -> None:
        """One answer refused by the board."""
        self._refusals.labels(kind.value).inc()

    def plan(self) -> PlanGauges | None:
        """What `reckoned` was last told of the plan."""
        return self._plan

    def pools(self) -> tuple[PoolGauges, ...]:
        """What `reckoned` was last told."""
        return self._pools

    def text(self, accept: str) -> tuple[bytes, str]:
        """The exposition and its content type, as negotiated by an `Accept` header."""
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # the client library trips over "version=x" in Accept
            encode, content_type = choose_encoder("")
        return encode(self.registry), content_type

    def _bounded(self, label: str, value: str) -> str:
        """The value, or "other" once a label has 64: a name made of data must not fill the scraper's memory."""
        seen = self._seen.setdefault(label, set())
        if value in seen:
            return value
        if len(seen) >= MAX_LABEL_VALUES:
            return OTHER
        seen.add(value)
        return value


class _FromBoard:
    """Collects gauges at scrape time; prometheus_client calls `collect`."""

    def __init__(self, board: Board, telemetry: Telemetry) -> None:
        self._board = board
        self._telemetry = telemetry

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Nothing ahead of time: registering must not need a decision."""
        return iter(())

    def collect(self) -> Iterator[GaugeMetricFamily]:
        snapshot = self._board.latest()
        if snapshot is not None:
            now = self._board.now()
            yield GaugeMetricFamily("tidegate_decision_age_seconds", "Age of the last decision.", now - snapshot.at)
            yield from _wishes(snapshot.wishes, now)
        yield from _reckoned(self._telemetry.pools())
        yield from plan_families(self._telemetry.plan())


def _wishes(wishes: Iterable[Wish], now: float) -> Iterator[GaugeMetricFamily]:
    """Per pool; wishes that differ only in further labels are folded: replicas add up, the worst age counts."""
    folded: dict[str, dict[tuple[str, ...], float]] = {name: {} for name in (*Metric, "blind", "age")}
    for wish in wishes:
        if wish.disabled is not None:
            continue
        pool = (wish.namespace, wish.labels.get(WORKLOAD_LABEL, ""), wish.labels.get(ROLE_LABEL, ""))
        for metric in Metric:
            if metric in wish.values:
                folded[metric][pool] = folded[metric].get(pool, 0.0) + wish.values[metric]
        folded["blind"][pool] = max(folded["blind"].get(pool, 0.0), float(wish.blind is not None))
        if wish.sampled_at is not None:
            folded["age"][pool] = max(folded["age"].get(pool, 0.0), now - wish.sampled_at)
    for metric, text in _REPLICAS.items():
        yield _gauge(metric.value, text, folded[metric])
    yield _gauge("tidegate_blind", "1 while the pool cannot be seen and its size is held.", folded["blind"])
    yield _gauge("tidegate_observation_age_seconds", "Age of the oldest signal decided on.", folded["age"])


def _reckoned(pools: Iterable[PoolGauges]) -> Iterator[GaugeMetricFamily]:
    demand: dict[tuple[str, ...], float] = {}
    velocity: dict[tuple[str, ...], float] = {}
    forecast: dict[tuple[str, ...], float] = {}
    shortage: dict[tuple[str, ...], float] = {}
    tiers: list[tuple[tuple[str, ...], TierGauges]] = []
    for pool in pools:
        key = (pool.namespace, pool.workload, pool.role)
        if pool.demand is not None:
            demand[key] = pool.demand
        if pool.velocity is not None:
            velocity[key] = pool.velocity
        for level, tokens in (pool.forecast or {}).items():
            forecast[*key, f"{level:g}"] = tokens
        if pool.shortage is not None:
            shortage[key] = pool.shortage
        tiers += [(key, tier) for tier in pool.tiers]
    yield _gauge("tidegate_demand_tokens_per_second", "Token demand decided for.", demand)
    yield _gauge("tidegate_velocity_tokens_per_second", "Tokens/s one replica sustains.", velocity)
    yield _gauge(
        "tidegate_forecast_tokens_per_second", "Forecast demand by quantile level.", forecast, (*POOL, "level")
    )
    yield shortage_family(shortage)
    yield from tier_families(tiers)


def _gauge(
    name: str, text: str, samples: Mapping[tuple[str, ...], float], labels: tuple[str, ...] = POOL
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, number in samples.items():
        family.add_metric(values, number)
    return family


@dataclass(frozen=True, slots=True)
class Exposition:
    """`/metrics`, `/healthz`, `/livez` and `/readyz`."""

    board: Board
    telemetry: Telemetry
    unready: Callable[[], str | None] | None = None
    """Why this server cannot do its work although decisions are there; None while it can."""

    def router(self) -> APIRouter:
        """Routes for `server.compose`."""
        router = APIRouter(redirect_slashes=False)
        for path, endpoint in (
            ("/metrics", self._metrics),
            ("/healthz", self._alive),
            ("/livez", self._alive),
            ("/readyz", self._ready),
        ):
            router.add_route(path, endpoint, methods=list(READ_ONLY))
        return router

    def _metrics(self, request: Request) -> Response:
        # Not a coroutine, so that it runs on a worker thread: 2,000 pools take 0.1 s, which an HPA must not wait for.
        content, content_type = self.telemetry.text(request.headers.get("accept", ""))
        return Response(content, headers={"Content-Type": content_type})

    async def _alive(self, _request: Request) -> Response:
        return PlainTextResponse("ok")

    async def _ready(self, _request: Request) -> Response:
        # Old decisions keep us ready: were discovery to fail for them, the API server would mark the whole API group
        # unavailable, and namespaces could no longer be deleted.
        if self.board.latest() is None:
            return PlainTextResponse(
                "not ready: no decision yet, the loop has not finished its first tick\n",
                status_code=HTTPStatus.SERVICE_UNAVAILABLE,
            )
        why = self.unready() if self.unready is not None else None
        if why is not None:
            return PlainTextResponse(f"not ready: {why}\n", status_code=HTTPStatus.SERVICE_UNAVAILABLE)
        return PlainTextResponse("ok")

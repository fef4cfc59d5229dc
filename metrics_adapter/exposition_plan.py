"""Gauges of what was foreseen and planned: per pool and supply tier, and of the plan as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client.metrics_core import GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

PLACE = ("namespace", "workload", "role")
_TIER_TEXTS = {
    "tidegate_foreseen_tokens_per_second": "Upper bound of the load at the tier's lead time that is planned for.",
    "tidegate_forecast_quantile": "Probability with which that bound is to hold.",
    "tidegate_forecast_coverage_ratio": "Share of the tier's past bounds that held.",
    "tidegate_forecast_lead_seconds": "Lead time planned for.",
    "tidegate_taken_replicas": "Replicas the plan takes from the tier.",
}
_PLAN_TEXTS = {
    "tidegate_plan_cost": "Cost of the last plan over its horizon, shortage included, in the prices' currency.",
    "tidegate_plan_next_best_cost": "Cost of the next-best alternative.",
    "tidegate_solver_gap_ratio": "Relative distance from the proven optimum of the last plan.",
}


@dataclass(frozen=True, slots=True)
class TierGauges:
    """One tier of one pool; None is "not known" and leaves the series out.

    Attributes:
        tier: of the supply. bound: tokens/s. quantile, coverage: 0..1. lead_s: seconds. taken: replicas.
    """

    tier: str
    bound: float | None = None
    quantile: float | None = None
    coverage: float | None = None
    lead_s: float | None = None
    taken: float | None = None


@dataclass(frozen=True, slots=True)
class PlanGauges:
    """The last plan as a whole; costs in the prices' currency over the horizon, `gap` relative."""

    cost: float | None = None
    next_best_cost: float | None = None
    gap: float | None = None


def tier_families(rows: Iterable[tuple[tuple[str, ...], TierGauges]]) -> Iterator[GaugeMetricFamily]:
    """The families of pools' tiers; each row is (namespace, workload, role) and a tier."""
    families = {name: GaugeMetricFamily(name, text, labels=(*PLACE, "tier")) for name, text in _TIER_TEXTS.items()}
    for place, row in rows:
        values = (row.bound, row.quantile, row.coverage, row.lead_s, row.taken)
        for name, value in zip(_TIER_TEXTS, values, strict=True):
            if value is not None:
                families[name].add_metric((*place, row.tier), value)
    yield from families.values()


def shortage_family(shortages: Mapping[tuple[str, ...], float]) -> GaugeMetricFamily:
    """Replicas no tier could give, per pool."""
    family = GaugeMetricFamily("tidegate_shortage_replicas", "Replicas that no tier could give.", labels=PLACE)
    for place, replicas in shortages.items():
        family.add_metric(place, replicas)
    return family


def plan_families(plan: PlanGauges | None) -> Iterator[GaugeMetricFamily]:
    """The plan's own gauges."""
    known = plan or PlanGauges()
    for (name, text), value in zip(_PLAN_TEXTS.items(), (known.cost, known.next_best_cost, known.gap), strict=True):
        if value is not None:
            yield GaugeMetricFamily(name, text, value)

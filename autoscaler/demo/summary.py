"""What the demonstration came to: the JSON summary, and the same in words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(slots=True)
class Seen:
    """The last answers of the fleet and the loop, and the counts of loops that ended before the present one."""

    fleet: dict[str, Any] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    ticks: int = 0
    changes: int = 0
    blind_ticks: int = 0

    def count(self, status: dict[str, Any]) -> None:
        """Take a new status; a younger loop starts its counts at 0."""
        if self.status and status.get("started_at") != self.status.get("started_at"):
            self.ticks += self.status.get("ticks", 0)
            self.changes += self.status.get("changes", 0)
            self.blind_ticks += self.status.get("blind_ticks", 0)
        self.status = status

    def total(self, name: str) -> int:
        """A count over all loops."""
        return int(getattr(self, name)) + int(self.status.get(name, 0))


def summary(seen: Seen, source: str, seconds: float, restarts: int) -> dict[str, Any]:
    """The JSON summary.

    Args:
        seen: the last answers; `seen.fleet` is the fleet's own last state where it left one.
        source: `prometheus` or `scrape`.
        seconds: how long the demonstration ran, start-up left out.
        restarts: processes started again.
    """
    fleet = seen.fleet
    return {
        "seconds": round(seconds, 3),
        "ticks": seen.total("ticks"),
        "source": source,
        "decisions": seen.total("changes"),
        "slo_attainment": fleet.get("slo_attainment"),
        "gpu_seconds": fleet.get("gpu_seconds", 0.0),
        "blind_ticks": seen.total("blind_ticks"),
        "requests_arrived": fleet.get("requests_arrived", 0),
        "requests_finished": fleet.get("requests_finished", 0),
        "fleet_seconds": fleet.get("elapsed_s", 0.0),
        "restarts": restarts,
        "pools": [_pool(pool) for pool in fleet.get("pools", [])],
    }


def _pool(pool: dict[str, Any]) -> dict[str, Any]:
    slo = pool["slo"]
    return {
        "name": pool["name"],
        "slo_attainment": slo["attainment"],
        "ttft_target_s": slo["ttft_target_s"],
        "tpot_target_s": slo["tpot_target_s"],
        "ttft_p95_s": slo["recent_ttft_p95_s"],
        "tpot_p95_s": slo["recent_tpot_p95_s"],
        "roles": {
            name: {
                "wanted": role["wanted"],
                "peak": role["peak"],
                "gpu_seconds": role["gpu_seconds"],
            }
            for name, role in pool["roles"].items()
        },
    }


def in_words(told: dict[str, Any]) -> Iterator[str]:
    """The summary as sentences."""
    blind = told["blind_ticks"]
    yield (
        f"{told['seconds']:.0f} s, {told['ticks']} ticks through {told['source']}"
        f" ({blind or 'none'} blind), {told['decisions']} changes of the wanted replicas."
    )
    yield f"{told['requests_finished']:,} of {told['requests_arrived']:,} requests finished."
    for pool in told["pools"]:
        met = pool["slo_attainment"]
        targets = f"first token within {pool['ttft_target_s']:g} s and {pool['tpot_target_s'] * 1000:g} ms a token"
        kept = "no request was judged" if met is None else f"{met:.1%} of requests kept the target"
        yield f"{pool['name']}: {kept} ({targets})."
        roles = pool["roles"]
        most = ", ".join(f"{name} {role['peak']}" for name, role in roles.items())
        at_peak = sum(role["peak"] for role in roles.values()) * told["fleet_seconds"]
        used = sum(role["gpu_seconds"] for role in roles.values())
        yield (
            f"{pool['name']}: {used:,.0f} GPU-seconds; held at its largest size throughout ({most}) it would have "
            f"taken {at_peak:,.0f}."
        )
    if told["restarts"]:
        yield f"Processes started again: {told['restarts']}."

"""CronHPA: a timetable of fixed counts (`cronhpa`).

    replicas = the count of the latest entry at or before now's time of day (UTC), yesterday's last before the first

Source: AliyunContainerService/kubernetes-cronhpa-controller (jobs of schedule and targetSize); HeteroScale's periodic
policy is the same. Between entries nothing is looked at, so counts hold blind or not. A role without a timetable keeps
what it has.
Roles: one timetable each, such as `--set decode=08:00=6,20:00=2`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoscaler.model import Decision, Role
from autoscaler.policies.role_steps import DIRECT, Wish, decided, reports, require_positive

if TYPE_CHECKING:
    from autoscaler.model import Observation
    from autoscaler.policies.policy import Follow, Scene

DAY_S = 86_400.0
HOURS, MINUTES = 24, 60


@dataclass(frozen=True, slots=True)
class CronHpa:
    """A timetable.

    Attributes:
        name: on the command line.
        prefill, decode, colocated: `HH:MM=count` separated by commas or spaces; empty keeps what is there.
        interval_s: between looks. follow: it writes replicas itself.
    """

    name: str = "cronhpa"
    prefill: str = ""
    decode: str = ""
    colocated: str = ""
    interval_s: float = 60.0
    follow: Follow = DIRECT

    def __post_init__(self) -> None:
        require_positive(self, "interval_s")
        for role in ("prefill", "decode", "colocated"):
            timetable(role, getattr(self, role))

    def start(self, scene: Scene) -> None:
        """Nothing is remembered."""

    def decide(self, seen: Observation, memory: None, scene: Scene) -> tuple[Decision, None]:
        """What the timetable says for now."""
        told_of = reports(seen)
        tables = {Role.PREFILL: self.prefill, Role.DECODE: self.decode, Role.COLOCATED: self.colocated}
        made = []
        for rule in scene.roles:
            entries = timetable(rule.key.role, tables[rule.key.role])
            made.append(decided(rule, told_of.get(rule.key), _now(entries, seen.at % DAY_S)))
        return Decision(seen.at, tuple(made), failure=seen.failure), memory


def _now(entries: tuple[tuple[float, int], ...], second: float) -> Wish:
    if not entries:
        return Wish(None, "no timetable")
    at, count = max((entry for entry in entries if entry[0] <= second), default=entries[-1])
    return Wish(count, f"timetable since {int(at // 3600):02d}:{int(at % 3600 // 60):02d}")


def timetable(role: str, text: str) -> tuple[tuple[float, int], ...]:
    """Entries (second of the day, count), ascending.

    Raises:
        ValueError: naming the entry that is not `HH:MM=count`, or a time given twice.
    """
    entries: dict[float, int] = {}
    for part in text.replace(",", " ").split():
        clock, _, count = part.partition("=")
        hour, _, minute = clock.partition(":")
        digits = hour.isdecimal() and minute.isdecimal() and count.isdecimal()
        if not digits or int(hour) >= HOURS or int(minute) >= MINUTES:
            raise ValueError(f"{role}: {part!r} is not of the form HH:MM=count, such as 08:30=6")
        second = 3600.0 * int(hour) + 60.0 * int(minute)
        if second in entries:
            raise ValueError(f"{role}: {clock} is given twice")
        entries[second] = int(count)
    return tuple(sorted(entries.items()))

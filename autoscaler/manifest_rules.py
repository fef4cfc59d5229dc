"""What a finding is, and the rules that HPA and ScaledObject have in common: the behaviour section, the number one."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autoscaler.manifest_yaml import Manifest
    from autoscaler.settings import Settings

DEAD_BAND_FROM = 10
"""From so many replicas on the HPA's default tolerance of 10 % swallows a step of one: 10 -> 11 is a ratio of 1.1."""
ONE = frozenset({"1", "1.0", "1000m", "1e0", "1E0"})
LONG_WINDOW_S = 60


class Severity(StrEnum):
    """An error keeps replicas from following the wish; a warning does in some clusters, or delays it."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """One trap: where it is, and what would be right."""

    file: str
    line: int
    severity: Severity
    message: str

    @classmethod
    def of(cls, made: Manifest, severity: Severity, message: str, *place: str | int) -> Finding:
        """A finding at a place of an object."""
        return cls(made.file, made.line(*place), severity, f"{made.kind} {made.name}: {message}")

    def __str__(self) -> str:
        """`file:line: error: what`."""
        return f"{self.file}:{self.line}: {self.severity}: {self.message}"


def text(value: Any) -> str:
    """A value for a message: quoted, without control characters, cut."""
    shown = ascii(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."  # noqa: PLR2004 - a line stays readable


def exactly_one(value: Any) -> bool:
    """Whether a quantity is 1."""
    return not isinstance(value, bool) and str(value) in ONE


def behavior(made: Manifest, most: int | None, settings: Settings | None, *place: str | int) -> Iterator[Finding]:
    """The `behavior` section at a place; `most` is the largest replica count."""
    if not made.mapping(*place):
        yield from _dead_band(made, most, settings, "behavior: is missing", *place)
        missing = "behavior: is missing: at most 4 pods or double in 15 s up, and 300 s of waiting down"
        yield Finding.of(made, Severity.WARNING, f"{missing}; write both directions out", *place)
        return
    for direction in ("scaleUp", "scaleDown"):
        where = (*place, direction)
        rules = made.mapping(*where)
        tolerance = rules.get("tolerance")
        if tolerance is None or not _is_zero(tolerance):
            said = "is missing" if tolerance is None else f"is {text(tolerance)}"
            yield from _dead_band(made, most, settings, f"behavior.{direction}.tolerance: {said}", *where)
        lacking = [key for key in ("stabilizationWindowSeconds", "selectPolicy", "policies") if key not in rules]
        if lacking:
            message = (
                f"behavior.{direction}: {', '.join(lacking)} left to defaults; KEDA updates the HPA for ever, and "
            )
            yield Finding.of(made, Severity.WARNING, f"{message}defaults delay the wish; write every field", *where)
        if rules.get("selectPolicy") == "Disabled":
            message = f"behavior.{direction}.selectPolicy Disabled: replicas never follow that way; write Max"
            yield Finding.of(made, Severity.ERROR, message, *where, "selectPolicy")
        window = rules.get("stabilizationWindowSeconds", 0)
        if isinstance(window, int) and window > LONG_WINDOW_S:
            message = f"behavior.{direction}: waits {window} s more, and Tidegate stabilises already; write 0 to 60"
            yield Finding.of(made, Severity.WARNING, message, *where, "stabilizationWindowSeconds")


def _is_zero(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and float(str(value).removesuffix("m")) == 0.0
    except ValueError:
        return False


def _dead_band(
    made: Manifest, most: int | None, settings: Settings | None, what: str, *place: str | int
) -> Iterator[Finding]:
    """Small sizes have no dead band to speak of, and a guard may step over it."""
    cleared = settings is not None and settings.guards.hpa_tolerance > 0
    matters = (most is None or most >= DEAD_BAND_FROM) and not cleared
    severity = Severity.ERROR if matters else Severity.WARNING
    why = "the HPA ignores changes within 10 %, such as 10 to 11"
    yield Finding.of(made, severity, f'{what}: {why}; write tolerance: "0" (Kubernetes 1.35, or the gate)', *place)

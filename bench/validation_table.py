"""One line of the validation table: a figure somebody measured or published, the simulator's, and the error allowed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DATA = Path(__file__).parents[2] / "shared" / "data"
"""Measured tables and runs; they come beside the repository and are not part of it."""


@dataclass(frozen=True, slots=True)
class Line:
    """A comparison.

    Attributes:
        experiment: which run or table. quantity: what of it, with its unit.
        measured: measured or published; a published range has its two ends here and in `upto`.
        simulated: the simulator's.
        target: largest relative error allowed; the error to a range is that to its nearer end.
        upto: upper end of a published range; None: a single figure.
        miss: relative error over many rows or moments, of which the two figures are only the middle; None: take theirs.
    """

    experiment: str
    quantity: str
    measured: float
    simulated: float
    target: float
    upto: float | None = None
    miss: float | None = None

    @property
    def error(self) -> float:
        """Relative error, signed unless `miss` is given; 0 inside a published range."""
        if self.miss is not None:
            return self.miss
        high = self.measured if self.upto is None else self.upto
        nearest = min(max(self.simulated, self.measured), high)
        return self.simulated / nearest - 1

    @property
    def within(self) -> bool:
        """Whether the target is met."""
        return abs(self.error) <= self.target

    def text(self) -> str:
        """As a row of the table."""
        known = f"{self.measured:.4g}" + ("" if self.upto is None else f"-{self.upto:.4g}")
        verdict = "yes" if self.within else "NO"
        return (
            f"{self.experiment:34} {self.quantity:34} {known:>12} {self.simulated:12.4g} "
            f"{self.error:+8.1%} {self.target:7.0%} {verdict:>7}"
        )


HEAD = f"{'experiment':34} {'quantity':34} {'measured':>12} {'simulated':>12} {'error':>8} {'target':>7} {'within':>7}"

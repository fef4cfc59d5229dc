"""Symmetric positive-definite systems of four unknowns, written out.

Learning solves two of them per role and tick. At this size numpy is mostly overhead (50 us for a solution and an
inverse; 12 here), which 1,000 roles would feel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

Four = tuple[float, float, float, float]
UNITS: tuple[Four, ...] = ((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0))


class Factors:
    """The matrix as L * D * L', L unit lower triangular and D diagonal (Golub and Van Loan, section 4.1)."""

    __slots__ = ("d0", "d1", "d2", "d3", "l10", "l20", "l21", "l30", "l31", "l32")

    def __init__(self, matrix: Sequence[float], least: float) -> None:
        """Factor a matrix of 16 numbers (only its upper half is read).

        Args:
            matrix: row major, no eigenvalue below `least`.
            least: above 0. No pivot can be smaller, so where rounding makes one so, this is nearer to the truth.
        """
        a00, a01, a02, a03, _, a11, a12, a13, _, _, a22, a23, _, _, _, a33 = matrix
        self.d0 = max(a00, least)
        self.l10, self.l20, self.l30 = a01 / self.d0, a02 / self.d0, a03 / self.d0
        self.d1 = max(a11 - self.l10 * a01, least)
        b12, b13 = a12 - self.l10 * a02, a13 - self.l10 * a03
        self.l21, self.l31 = b12 / self.d1, b13 / self.d1
        self.d2 = max(a22 - self.l20 * a02 - self.l21 * b12, least)
        c23 = a23 - self.l20 * a03 - self.l21 * b13
        self.l32 = c23 / self.d2
        self.d3 = max(a33 - self.l30 * a03 - self.l31 * b13 - self.l32 * c23, least)

    def solve(self, right: Sequence[float]) -> Four:
        """X with matrix * x = right."""
        y0 = right[0]
        y1 = right[1] - self.l10 * y0
        y2 = right[2] - self.l20 * y0 - self.l21 * y1
        y3 = right[3] - self.l30 * y0 - self.l31 * y1 - self.l32 * y2
        x3 = y3 / self.d3
        x2 = y2 / self.d2 - self.l32 * x3
        x1 = y1 / self.d1 - self.l21 * x2 - self.l31 * x3
        return y0 / self.d0 - self.l10 * x1 - self.l20 * x2 - self.l30 * x3, x1, x2, x3

    def inverse(self) -> tuple[float, ...]:
        """The inverse, 16 numbers row major."""
        return tuple(number for unit in UNITS for number in self.solve(unit))


def without(matrix: Sequence[float], free: Sequence[bool], diagonal: float) -> list[float]:
    """The matrix with the unknowns that are not free cut out: their rows and columns 0, `diagonal` where they meet."""
    return [matrix[4 * i + j] if free[i] and free[j] else diagonal * (i == j) for i in range(4) for j in range(4)]

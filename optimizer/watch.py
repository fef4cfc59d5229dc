"""How far HiGHS goes: by work, which is counted and alike on every machine; the clock only backs that up.

HiGHS stops at limits on time, nodes and simplex iterations. Its clock would make plans depend on what else a machine
does, and programs of middling size stay in their root node, of which it counts nothing. But it asks at fixed places
whether to go on: after every round of cuts, every heuristic, and several times in every node. These places are the same
on every machine, so counting them, each at its usual price, is a clock that always runs alike.

The real clock is HiGHS's own. A `Watch` adds up what it says over all programs of one plan, so that a machine that is
far slower than reckoned still answers in time. Then the plan says so, and may be another one elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import highspy

if TYPE_CHECKING:
    from highspy.cb import HighsCallbackInput, HighsCallbackOutput, HighsCallbackType

STOPS = highspy.cb.HighsCallbackType.kCallbackMipInterrupt
"""HiGHS's name for the places at which it asks."""
SECONDS_PER_STOP = 3e-4
SECONDS_PER_ENTRY_AT_ROOT = 6e-6
SECONDS_PER_ENTRY_IN_TREE = 4e-7
"""Of one stop, by entries of the program: on made-up fleets of 100 to 20,000 entries at 2.1 GHz the root took 2 to 12
millionths of a second for each (heuristics solve programs of their own in between), the tree 0.2 to 0.35."""


def run_time_s(solver: highspy.Highs) -> float:
    """Seconds that a solver has run for so far."""
    return float(solver.getRunTime())


class Work:
    """Counts the stops of one search, and ends it when their price comes to `most_s`."""

    def __init__(self, entries: int, most_s: float) -> None:
        self.root_s = SECONDS_PER_STOP + SECONDS_PER_ENTRY_AT_ROOT * entries
        self.tree_s = SECONDS_PER_STOP + SECONDS_PER_ENTRY_IN_TREE * entries
        self.left_s = most_s

    def __call__(
        self,
        _kind: HighsCallbackType,
        _message: str,
        found: HighsCallbackOutput,
        answer: HighsCallbackInput,
        _data: object,
    ) -> None:
        """HiGHS asks whether to go on."""
        self.left_s -= self.tree_s if found.mip_node_count else self.root_s
        if self.left_s < 0.0:
            answer.user_interrupt = True


class Watch:
    """Seconds that all programs of one plan may still take by the clock."""

    def __init__(self, seconds: float) -> None:
        self.left_s = seconds
        self.ended = False
        """Whether the clock ended a program before its work was done."""

    def run(self, solver: highspy.Highs, work: Work | None = None) -> None:
        """Run a solver to its end, or until its work is done or the time is up."""
        began = run_time_s(solver)
        solver.setOptionValue("time_limit", began + max(0.0, self.left_s))
        if work is not None:
            solver.setCallback(work, None)
            solver.startCallback(STOPS)
        solver.run()
        self.ran(solver, began)

    def ran(self, solver: highspy.Highs, began: float) -> None:
        """Note what a solver ran for since its own time was `began`."""
        self.left_s -= run_time_s(solver) - began
        self.ended |= solver.getModelStatus() == highspy.HighsModelStatus.kTimeLimit

"""The same problem gives the same plan on a busy machine: work is counted, and the clock is there for emergencies."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from test_decomposition import contended
from test_plan_laws import fleet
from test_roles_that_meet import pairs

from optimizer import Effort, Limits, Plan, Problem, plan, watch
from optimizer.algebra import build
from optimizer.decompose import decomposed
from optimizer.greedy import greedy
from optimizer.ladder import ladder
from optimizer.point import breaches, complete
from optimizer.solve import TimedOut, solve
from optimizer.watch import Watch, Work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import highspy

UNREACHED = 1e-6
"""A gap at which none of these searches ends: the work allowed does."""


def planned(problem: Problem, seconds: float) -> Plan:
    return plan(problem, Effort(Limits(seconds, UNREACHED), alternative=False))


def running(factor: float) -> Callable[[highspy.Highs], float]:
    """A clock that runs so many times as fast as the real one: a machine so many times as slow."""
    return lambda solver: factor * float(solver.getRunTime())


@contextmanager
def two_busy_processes() -> Iterator[None]:
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


@pytest.mark.parametrize(
    ("problem", "seconds"),
    [(contended(24), 0.5), (contended(6), 0.5), (pairs(1), 1.0), (fleet(3, pools=12), 1.0)],
    ids=["many pools", "few pools", "pools whose roles meet", "mixed pools"],
)
def test_a_slow_clock_changes_nothing(problem: Problem, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optimizer.solve.PATIENCE", 1e6)
    quick = planned(problem, seconds)
    monkeypatch.setattr(watch, "run_time_s", running(50.0))
    slow = planned(problem, seconds)
    assert "out of time" not in quick.reasons[0]
    assert repr(slow) == repr(quick)


def test_other_processes_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    # The gap is not reached, so what ends the search is the work: alone, and beside two that want the processor too.
    monkeypatch.setattr("optimizer.solve.PATIENCE", 1e6)
    problem = contended(12)
    alone = planned(problem, 0.5)
    with two_busy_processes():
        beside = planned(problem, 0.5)
    assert repr(beside) == repr(alone)
    assert alone.gap is not None
    assert alone.gap > UNREACHED


def test_a_clock_that_has_run_out_ends_it_and_the_plan_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = contended(24)
    monkeypatch.setattr(watch, "run_time_s", running(1e9))
    made = planned(problem, 1.0)
    assert "ran out of time by the clock" in made.reasons[0]
    model = build(ladder(problem))
    assert made.objective <= model.program.worth(complete(model, *greedy(model.ladder))) + 1e-6


def test_the_same_work_ends_at_the_same_place() -> None:
    # Twice the work is never worse, and the same work gives the same point, bound and all.
    program = build(ladder(contended(24))).program
    once, twice, again = (solve(program, Limits(seconds, UNREACHED)) for seconds in (1.0, 2.0, 1.0))
    assert isinstance(once, TimedOut)
    assert once == again
    assert once.objective is not None
    assert twice.objective is not None
    assert twice.objective <= once.objective + 1e-6


def test_no_work_is_no_answer() -> None:
    program = build(ladder(contended(6))).program
    assert solve(program, Limits(1e-9, 0.0), watch=Watch(60.0)).values is None


def test_work_is_counted_by_stops() -> None:
    # A program of 1,000 entries: a stop at the root is 0.3 ms + 1,000 x 6 us = 6.3 ms, one in the tree 0.3 + 0.4 = 0.7.
    class Found:
        mip_node_count = 0

    class Given:
        user_interrupt = False

    work = Work(1000, 0.0150)
    found, given = Found(), Given()
    for nodes, left_ms, over in ((0, 8.7, False), (0, 2.4, False), (3, 1.7, False), (4, 1.0, False), (9, 0.3, False)):
        found.mip_node_count = nodes
        work(watch.STOPS, "", found, given, None)
        assert work.left_s == pytest.approx(left_ms / 1e3)
        assert given.user_interrupt is over
    work(watch.STOPS, "", found, given, None)
    assert given.user_interrupt


def test_pools_planned_anew_from_the_settled_plan_keep_the_rules() -> None:
    problem = contended(12)
    model = build(ladder(problem))
    found = decomposed(model, greedy(model.ladder), Limits(2.0, UNREACHED))
    assert found is not None
    assert found.guide is not None
    assert found.values is not None
    assert breaches(model.program, found.values) == ()
    assert found.bound <= model.program.worth(found.values) + 1e-6
    settled = complete(model, *found.guide)
    assert model.program.worth(found.values) <= model.program.worth(settled) + 1e-6

"""Runs in the processes of this machine."""

from __future__ import annotations

import gc
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import TYPE_CHECKING, Any

from autoscaler.errors import BadSettings, TidegateError
from autoscaler.scoreboard_workers import end_with_parent, script_left_alone
from autoscaler.whatif.run import outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from autoscaler.whatif.history import Load
    from autoscaler.whatif.run import Run
    from autoscaler.whatif.sweep import Backend, Done

_LOADS: dict[str, Load] = {}
"""A worker's loads, sent once when it starts instead of with every run."""


def run_in_processes(workers: int) -> Backend:
    """A backend of so many processes; 1 runs everything in this one."""
    return partial(_run, workers)


def _run(workers: int, asked: Sequence[Run], loads: Mapping[str, Load]) -> Iterator[Done]:
    if workers <= 1 or len(asked) <= 1:
        for index, run in enumerate(asked):
            yield index, outcome(run, loads)
        return
    others = set(multiprocessing.active_children())
    # Spawned, not forked: a progress bar has a thread, and a fork of a process with threads may hang.
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(asked)), spawn, _begin, (dict(loads),))
    try:
        with script_left_alone():
            waiting = {pool.submit(attempt, run): index for index, run in enumerate(asked)}
        for future in as_completed(waiting):
            yield waiting[future], kept_or_raised(future.result())
    except BrokenProcessPool:
        raise TidegateError("a worker process died, killed or out of memory; try fewer --workers") from None
    except BaseException:
        for child in set(multiprocessing.active_children()) - others:
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(loads: Mapping[str, Load]) -> None:
    end_with_parent()
    _LOADS.clear()
    _LOADS.update(loads)
    # 120,000 objects of imported modules are never garbage; without this each full collection walks them all.
    gc.freeze()


def attempt(run: Run, loads: Mapping[str, Load] | None = None) -> dict[str, Any] | tuple[str, ...]:
    """An outcome, or the problems as text: errors with fields of their own do not survive the way between processes."""
    try:
        return outcome(run, _LOADS if loads is None else loads)
    except BadSettings as error:
        return error.problems
    except TidegateError as error:
        return (str(error),)


def kept_or_raised(result: dict[str, Any] | tuple[str, ...]) -> dict[str, Any]:
    """The outcome. Raises BadSettings for problems."""
    if isinstance(result, dict):
        return result
    raise BadSettings(tuple(result))

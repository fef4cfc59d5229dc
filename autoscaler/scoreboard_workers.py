"""Many runs in parallel processes, none of which outlives the one that started them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from types import ModuleType
from typing import TYPE_CHECKING

from autoscaler.errors import BadSettings, TidegateError
from autoscaler.scoreboard import run_job

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from autoscaler.scoreboard import Job
    from autoscaler.simulator.result import Result


def run_jobs(jobs: Sequence[Job], workers: int, done: Callable[[Job], None] | None = None) -> list[Result]:
    """Run all jobs, `workers` at a time, and return their results in the jobs' order whatever order they end in.

    Whatever ends this early (an error, Ctrl-C) ends the running workers at once; a worker whose parent was killed ends.

    Args:
        jobs: what to run.
        workers: processes; 1 runs all in this one.
        done: called after each job, for a progress bar.

    Raises:
        BadSettings: what a job could not be run with, the trace's problems included.
        BadTrace: a trace's file is not sound; every file is read before anything runs.
        TidegateError: a worker died.
    """
    for trace in dict.fromkeys(job.trace for job in jobs):
        trace.check()
    if workers <= 1 or len(jobs) <= 1:
        results = []
        for job in jobs:
            results.append(run_job(job))
            if done:
                done(job)
        return results
    return _parallel(jobs, min(workers, len(jobs)), done)


def _parallel(jobs: Sequence[Job], workers: int, done: Callable[[Job], None] | None) -> list[Result]:
    found: dict[int, Result] = {}
    others = set(multiprocessing.active_children())
    # Spawned, not forked: a progress bar has a thread, and a fork of a process with threads may hang.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), end_with_parent)
    try:
        with script_left_alone():
            waiting = {pool.submit(_attempt, job): index for index, job in enumerate(jobs)}
        for future in as_completed(waiting):
            index = waiting[future]
            found[index] = _kept(future.result())
            if done:
                done(jobs[index])
    except BrokenProcessPool:
        raise TidegateError(
            "a worker process died, killed or out of memory; try fewer --workers or a smaller trace"
        ) from None
    except BaseException:
        for child in set(multiprocessing.active_children()) - others:
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    return [found[index] for index in range(len(jobs))]


def _attempt(job: Job) -> Result | tuple[str, ...]:
    """A result, or the problems as text: errors with fields of their own do not survive the way between processes."""
    try:
        return run_job(job)
    except BadSettings as error:
        return error.problems
    except TidegateError as error:
        return (str(error),)


def _kept(outcome: Result | tuple[str, ...]) -> Result:
    if isinstance(outcome, tuple):
        raise BadSettings(outcome)
    return outcome


@contextmanager
def script_left_alone() -> Iterator[None]:
    """Processes spawned meanwhile do not run the caller's script again, whether it guards its `__main__` or not.

    They would import it first of all, as multiprocessing does for functions that live there, and a script without the
    guard would then begin the same runs in each of them. What runs in these workers lives in modules of its own.
    """
    own = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = own


def end_with_parent() -> None:
    """Leave Ctrl-C to the parent, which ends its workers; end when it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch(sentinel: int) -> None:
        wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, args=(parent.sentinel,), daemon=True).start()

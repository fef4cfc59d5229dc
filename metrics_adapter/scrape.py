"""Seeing without a Prometheus: asks every engine's `/metrics` itself and reckons rates the way Prometheus would."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from functools import partial
from typing import TYPE_CHECKING

from metrics_adapter.scrape_groups import TargetState, read_groups
from metrics_adapter.scrape_http import ScrapeError, ScrapeOptions, Scraper
from metrics_adapter.scrape_targets import Noting, Target
from metrics_adapter.signals import Readings, SourceError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from concurrent.futures import Future

    from metrics_adapter.exposition_text import Sample
    from metrics_adapter.signals import Group

TargetList = Callable[[], Sequence[Target]]
"""Called at every look; see `static_targets` and `FileTargets`."""

_NAMED = 3  # causes spelled out in a note or an error; the rest are counted
_GRACE_S = 1.0  # what a caller waits beyond the deadline for a loop that is busy parsing, before giving up on it


class ScrapeSource:
    """A MetricSource that needs nothing but the engines. Safe to use from several threads.

    A thread of its own, from construction to `close()`, does all requests: at each read, or every `interval_s` if
    that is given; then a read takes what the newest look found and waits only for the first one.
    """

    name: str = "scrape"

    def __init__(
        self, targets: TargetList, options: ScrapeOptions | None = None, *, clock: Callable[[], float] = time.time
    ) -> None:
        """Scrape what `targets()` lists; `clock` gives the Unix time of samples that carry none."""
        self._targets = targets
        self._options = options or ScrapeOptions()
        self._clock = clock
        self._gate = threading.Lock()  # orders reads against close(): no look is handed to a loop that has ended
        self._closed = False
        self._lock = threading.Lock()  # guards the next four, written by the thread and read by callers
        self._states: dict[object, TargetState] = {}
        self._queries = 0
        self._notes: tuple[str, ...] = ()
        self._trouble: str | None = None
        self._looked = threading.Event()
        self._looks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="tidegate-scrape", daemon=True)
        self._thread.start()

    def read(self, now: float, groups: Sequence[Group]) -> Readings:
        """Read every group as of Unix time `now`. Returns or raises within `timeout_s` (and a second of grace).

        Raises:
            SourceError: every target failed, the target list could not be had, or the source is closed.
        """
        began = time.monotonic()
        self._await_look()
        with self._lock:
            if self._trouble is not None:
                raise SourceError(self._trouble)
            states = list(self._states.values())
            failing = [f"{state.target.shown}: {state.cause}" for state in states if not state.up]
            if states and len(failing) == len(states):
                raise SourceError(f"all {len(states)} targets failed: {_first(failing)}")
            by_key, left_out = read_groups(states, groups, now, self._options.max_age_s)
            strangers = [state.target.shown for state in states if state.up and not state.views]
            notes = list(self._notes)
            queries = self._queries
        if not states:
            notes.append("there are no targets to scrape")
        if failing:
            notes.append(f"{len(failing)} of {len(states)} targets failed: {_first(failing)}")
        if left_out:
            notes.append(f"{len(left_out)} times an engine's word was not taken: {_first(left_out)}")
        if strangers:
            notes.append(f"{len(strangers)} targets have no metrics of a known engine: {_first(strangers)}")
        return Readings(now, by_key, queries, time.monotonic() - began, tuple(notes))

    def close(self) -> None:
        """End the thread and every connection; safe to call twice."""
        with self._gate:
            if not self._closed:
                self._closed = True
                self._loop.call_soon_threadsafe(self._stop.set)
                self._looked.set()  # nobody need wait for it any more
        self._thread.join(self._options.timeout_s + _GRACE_S)

    def _await_look(self) -> None:
        limit = self._options.timeout_s + _GRACE_S
        with self._gate:
            if self._closed:
                raise SourceError("the scrape source is closed")
            look = self._hand_over() if self._options.interval_s is None else None
        if look is None:
            if not self._looked.wait(limit):
                raise SourceError(f"the first look at the targets did not end within {limit:g} s")
            if self._closed:
                raise SourceError("the scrape source was closed in the middle of a look")
            return
        try:
            look.result(limit)
        except TimeoutError as error:
            look.cancel()
            raise SourceError(f"a look at the targets did not end within {limit:g} s") from error
        except CancelledError as error:
            raise SourceError("the scrape source was closed in the middle of a look") from error

    def _hand_over(self) -> Future[None]:
        return asyncio.run_coroutine_threadsafe(self._look(), self._loop)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._scraper = Scraper(self._options)
        if self._options.interval_s is not None:
            self._hold(asyncio.create_task(self._look_every(self._options.interval_s)))
        await self._stop.wait()
        for task in self._looks:
            task.cancel()
        await asyncio.gather(*self._looks, return_exceptions=True)
        await self._scraper.close()

    async def _look_every(self, interval_s: float) -> None:
        while True:
            began = self._loop.time()
            await self._look()
            await asyncio.sleep(max(0.0, began + interval_s - self._loop.time()))

    def _hold(self, task: asyncio.Task[None] | None) -> None:
        if task is not None:
            self._looks.add(task)
            task.add_done_callback(self._looks.discard)

    async def _look(self) -> None:
        """Scrape every target once, within `timeout_s`."""
        self._hold(asyncio.current_task())
        try:
            await self._scrape_all(self._listed())
        except Exception as error:  # noqa: BLE001 - the list is foreign code, and a background look has nobody else to tell than the next read
            with self._lock:
                self._trouble = str(error) if isinstance(error, SourceError) else f"looking at the targets: {error!r}"
        self._looked.set()

    def _listed(self) -> list[TargetState]:
        """What is to be scraped; targets that are no longer listed are forgotten."""
        lister: object = self._targets
        targets = {target.key: target for target in self._targets()}
        with self._lock:
            known = self._states
            self._states = {
                key: known.get(key) or TargetState(target, self._options.window_s) for key, target in targets.items()
            }
            self._notes = lister.notes if isinstance(lister, Noting) else ()
            self._trouble, self._queries = None, len(targets)
            return list(self._states.values())

    async def _scrape_all(self, states: Iterable[TargetState]) -> None:
        # those known to hang go last: a rack of them must not keep the others from being seen, look after look
        ordered = sorted(states, key=lambda state: state.slow)
        tasks = {asyncio.create_task(self._scraper.scrape(s.target.url, partial(self._begin, s))): s for s in ordered}
        if not tasks:
            return
        try:
            await asyncio.wait(tasks, timeout=self._options.timeout_s)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        with self._lock:
            for task, state in tasks.items():
                self._conclude(state, task)

    def _begin(self, state: TargetState) -> float:
        state.slow = True  # until it has answered, or failed at once
        return self._clock()

    def _conclude(self, state: TargetState, task: asyncio.Task[tuple[float, list[Sample]]]) -> None:
        if task.cancelled():
            state.fail(f"not done when the look's {self._options.timeout_s:g} s were over", self._clock())
            return
        error = task.exception()
        if error is None:
            at, samples = task.result()
            state.succeed(samples, at)
        else:
            state.slow = isinstance(error, ScrapeError) and error.slow
            state.fail(str(error) if isinstance(error, ScrapeError) else repr(error), self._clock())


def _first(items: Sequence[str]) -> str:
    rest = len(items) - _NAMED
    return "; ".join(items[:_NAMED]) + (f"; and {rest} more" if rest > 0 else "")

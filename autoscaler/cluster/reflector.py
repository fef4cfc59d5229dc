"""List, then watch: a cache of one kind that follows the server, survives its outages and holds only what is kept.

States: listing → following ⇄ disconnected (resumes at the last version, so nothing is missed) → listing again when the
server no longer keeps that version (410). A kind that is not served or not allowed is asked for once a minute.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Generic, TypeVar

import structlog

from autoscaler.cluster.api import ApiError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from autoscaler.cluster.api import Api, Json, Resource, Watch

log = structlog.get_logger(__name__)
T = TypeVar("T")
Name = tuple[str, str]

WINDOW_S = 300.0
"""Length of one watch request; client-go uses 5 to 10 minutes."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 30.0
"""Back-off after a failure, doubling; each wait is drawn between half of it and all of it."""
REFUSED_WAIT_S = 60.0
"""How long to wait before asking again for a kind that is not served or not allowed."""


class Cache(Generic[T]):
    """What is there of one kind. Written by its reflector, read by anyone.

    Attributes:
        synced: whether a whole list has been read once.
        refused: why it cannot be read (not served, not allowed); None when it can.
        lost_at: since when the server has not been heard; None while it is.
        lists, events: how often a whole list was read, and how many changes were seen.
    """

    def __init__(self) -> None:
        self._there: dict[Name, T] = {}
        self._lock = Lock()
        self.synced = False
        self.refused: str | None = None
        self.lost_at: float | None = None
        self.lists = 0
        self.events = 0

    def view(self) -> dict[Name, T]:
        """A copy of what is there now, by (namespace, name)."""
        with self._lock:
            return dict(self._there)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._there)

    def replace(self, there: dict[Name, T]) -> None:
        """A whole list has been read."""
        with self._lock:
            self._there = there
            self.synced, self.refused, self.lists = True, None, self.lists + 1

    def put(self, name: Name, kept: T) -> None:
        """One was added or changed."""
        with self._lock:
            self._there[name] = kept
            self.events += 1

    def drop(self, name: Name) -> None:
        """One has gone."""
        with self._lock:
            self._there.pop(name, None)
            self.events += 1

    def refuse(self, why: str) -> None:
        """It cannot be read at all: then nothing is known to be there."""
        with self._lock:
            self._there = {}
            self.refused = why


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which objects of a kind: of one namespace (all when empty), by fieldSelector or labelSelector."""

    namespace: str = ""
    selectors: Mapping[str, str] = field(default_factory=dict)


class Reflector(Generic[T]):
    """Keeps one cache. `start` and `stop` from one thread.

    Args:
        api, resource: what to follow. keep: what is kept of an object; None leaves it out.
        clock: Unix seconds. chance: a number in 0..1, for the back-off.
        changed: called for each change. chosen: which objects; all when None.
    """

    def __init__(
        self,
        api: Api,
        resource: Resource,
        keep: Callable[[Json], T | None],
        *,
        clock: Callable[[], float],
        chance: Callable[[], float],
        window_s: float = WINDOW_S,
        changed: Callable[[], None] | None = None,
        chosen: Chosen | None = None,
    ) -> None:
        self.resource = resource
        self.cache: Cache[T] = Cache()
        self._api, self._keep, self._clock, self._chance = api, keep, clock, chance
        self._window_s, self._chosen, self._changed = window_s, chosen or Chosen(), changed
        self._stop = Event()
        self._watch: Watch | None = None
        self._thread = Thread(target=self._run, name=f"reflect {resource}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, waiting for the thread."""
        self._stop.set()
        while self._thread.is_alive():
            if (watch := self._watch) is not None:
                watch.shutdown()
            self._thread.join(0.1)

    def _run(self) -> None:
        version: str | None = None
        failures = 0
        while not self._stop.is_set():
            try:
                if version is None:
                    version = self._list()
                    failures = 0
                version = self._follow(version)
                failures = 0
            except ApiError as error:
                if self._stop.is_set():
                    return
                if error.gone:
                    log.info("relisting", resource=str(self.resource), reason=error.message)
                    version = None
                wait = self._after(error, failures)
                failures += 1
                self._stop.wait(wait)

    def _after(self, error: ApiError, failures: int) -> float:
        """Note a failure, and say how long to wait, s."""
        if error.forbidden or error.absent:
            if self.cache.refused is None:
                log.warning("cannot be read", resource=str(self.resource), reason=error.message)
            self.cache.refuse(error.message)
            return REFUSED_WAIT_S
        if not error.gone and self.cache.lost_at is None:
            self.cache.lost_at = self._clock()
            log.warning("lost sight", resource=str(self.resource), reason=error.message)
        wait = min(FIRST_WAIT_S * 2.0 ** min(failures, 20), LONGEST_WAIT_S) * (0.5 + 0.5 * self._chance())
        return max(wait, error.retry_after_s or 0.0)

    def _list(self) -> str:
        there: dict[Name, T] = {}
        version = ""
        for items, page_version in self._api.pages(self.resource, self._chosen.namespace, **self._chosen.selectors):
            version = page_version
            for item in items:
                kept = self._kept(item)
                if kept is not None:
                    there[_name(item)] = kept
        self.cache.replace(there)
        self._heard()
        return version

    def _follow(self, version: str) -> str:
        """Follow from a version until the request ends; returns the version to go on from."""
        watch = self._watch = self._api.watch(
            self.resource, version, self._window_s, self._chosen.namespace, **self._chosen.selectors
        )
        self._heard()
        silent = True
        try:
            for what, found in watch:
                if self._stop.is_set():
                    break
                version = self._apply(what, found) or version
                silent = False
                self._heard()
        except ApiError as error:
            if error.gone or self._stop.is_set():
                raise
            # What came before it broke was applied: go on from there, not from where the request began.
            self.cache.lost_at = self._clock()
            self._stop.wait(FIRST_WAIT_S * self._chance())
        finally:
            self._watch = None
        if silent:
            self._stop.wait(FIRST_WAIT_S)  # a server that ends every watch at once must not be asked in a tight loop
        return version

    def _apply(self, what: str, found: Json) -> str:
        if what != "BOOKMARK":
            name, kept = _name(found), self._kept(found) if what != "DELETED" else None
            if kept is None:
                self.cache.drop(name)
            else:
                self.cache.put(name, kept)
            if self._changed is not None:
                self._changed()
        return str((found.get("metadata") or {}).get("resourceVersion") or "")

    def _kept(self, found: Json) -> T | None:
        """What is kept of an object; one of an unexpected shape is left out, aloud, and costs no other its place."""
        try:
            return self._keep(found)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            log.warning("cannot be understood", resource=str(self.resource), name=_name(found), reason=repr(error))
            return None

    def _heard(self) -> None:
        if self.cache.lost_at is not None:
            log.info("in sight again", resource=str(self.resource))
            self.cache.lost_at = None


def _name(found: Json) -> Name:
    meta = found["metadata"]
    return meta.get("namespace") or "", meta["name"]

"""One of several replicas acts: a Lease, held by renewing it, fenced by a token that only grows.

A holder that could not renew for `renew_deadline_s` stops by its own monotonic clock; others take over when they have
seen no renewal for `duration_s` by theirs. No clocks are compared across machines, and as the deadline is the shorter
of the two, the former holder has stopped writing before the next begins. The token (the Lease's leaseTransitions)
stands in every mark, so that a write delayed in the network is recognised as an older holder's.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING

import structlog

from autoscaler.cluster.api import ApiError, NotLeader, Resource

if TYPE_CHECKING:
    from collections.abc import Callable

    from autoscaler.cluster.api import Api, Json
    from autoscaler.settings_cluster import ElectionSettings

log = structlog.get_logger(__name__)
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")


@dataclass(frozen=True, slots=True)
class Held:
    """Our leadership: until when, by the monotonic clock, and with which token."""

    until: float
    token: int


class Rivals:
    """Leases that must not be held beside ours: those of another number of shards, which split the stock otherwise.

    Both sides look after they have written: of two that take their Leases at once, the later writer sees the other's.

    Args:
        api, namespace: where they are.
        excludes: whether a Lease of that name excludes ours.
        needed: false: where they may not be listed, there are none.
        monotonic: seconds.
    """

    def __init__(
        self,
        api: Api,
        namespace: str,
        excludes: Callable[[str], bool],
        *,
        needed: bool,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api, self._namespace, self._excludes = api, namespace, excludes
        self._needed, self._monotonic = needed, monotonic
        self._seen: dict[str, tuple[str, float]] = {}

    def held(self) -> str | None:
        """One that somebody holds, or may hold by what we have watched; None when there is none. Raises ApiError."""
        now, there = self._monotonic(), {}
        try:
            found = [one for items, _ in self._api.pages(LEASES, self._namespace) for one in items]
        except ApiError as error:
            if error.forbidden and not self._needed:
                return None
            raise
        said = None
        for one in found:
            name, spec = str(one["metadata"]["name"]), one.get("spec") or {}
            if not spec.get("holderIdentity") or not self._excludes(name):
                continue
            version = str(one["metadata"]["resourceVersion"])
            before = self._seen.get(name)
            there[name] = before if before is not None and before[0] == version else (version, now)
            if now - there[name][1] < float(spec.get("leaseDurationSeconds") or 1.0):
                said = name
        self._seen = there
        return said


class Election:
    """Runs for leader until stopped.

    Args:
        api: to read and write the Lease with; it must not be fenced by this very election.
        settings: the Lease's name and times.
        namespace: where it is.
        identity: who we are; must differ between replicas and between starts.
        clock: Unix seconds, for the times written.
        monotonic: seconds, for the times waited.
        elected: called, from the election's thread, when leadership is gained.
        lease: the Lease's name, where it is not the settings'.
        rivals: Leases that exclude ours; None when there can be none.
    """

    def __init__(  # noqa: PLR0913 - what an election needs, each given by name
        self,
        api: Api,
        settings: ElectionSettings,
        namespace: str,
        identity: str,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        elected: Callable[[], None] | None = None,
        lease: str | None = None,
        rivals: Rivals | None = None,
    ) -> None:
        self._rivals = rivals
        self._lease_name = lease or settings.lease
        self._api, self._settings, self._namespace, self.identity = api, settings, namespace, identity
        self._clock, self._monotonic, self._elected = clock, monotonic, elected
        self._lock = Lock()
        self._held: Held | None = None
        self._seen: tuple[str, float] = ("", -math.inf)
        self._said = ""
        self.holder = ""
        self._stop = Event()
        self._thread = Thread(target=self._run, name="leader election", daemon=True)

    def start(self) -> None:
        """Run for it."""
        self._thread.start()

    def stop(self) -> None:
        """Stop, and let go of the Lease so that another can take over at once."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        if self.token() is not None:
            self._release()

    def token(self) -> int | None:
        """The fencing token while we may act; None while we may not."""
        held = self._held
        return held.token if held is not None and self._monotonic() < held.until else None

    def fence(self) -> None:
        """For `Api.fence`. Raises NotLeader when we may not write."""
        if self.token() is None:
            raise NotLeader(f"{self.holder or 'nobody known'} leads, not {self.identity}")

    def _run(self) -> None:
        while not self._stop.is_set():
            self.step()
            self._stop.wait(self._settings.retry_s)

    def step(self) -> None:
        """One try: take the Lease when it is free, renew it when it is ours. Failures are tried again."""
        before = self.token() is not None
        asked = self._monotonic()
        try:
            self._try(asked)
        except ApiError as error:
            if not error.conflict:
                log.warning("the Lease cannot be read or written", reason=error.message)
        now = self.token() is not None
        if now != before:
            log.info("leads" if now else "no longer leads", identity=self.identity, holder=self.holder)
            if now and self._elected is not None:
                self._elected()

    def _try(self, asked: float) -> None:
        try:
            found = self._api.get(LEASES, self._namespace, self._lease_name)
        except ApiError as error:
            if not error.absent:
                raise
            if self._free():
                self._taken(self._api.create(LEASES, self._namespace, self._lease({}, {})), asked)
            return
        spec = found.get("spec") or {}
        self.holder = str(spec.get("holderIdentity") or "")
        version = str(found["metadata"]["resourceVersion"])
        if version != self._seen[0]:
            self._seen = version, self._monotonic()
        waited = self._monotonic() - self._seen[1]
        theirs = float(spec.get("leaseDurationSeconds") or self._settings.duration_s)
        if self.holder not in {"", self.identity} and waited < max(theirs, self._settings.duration_s):
            self._lost()
            return
        if self.token() is not None and self.holder == self.identity:
            self._gained(self._api.replace(LEASES, self._namespace, self._lease_name, self._lease(found, spec)), asked)
        elif self._free():
            made = self._api.replace(LEASES, self._namespace, self._lease_name, self._lease(found, spec))
            self._taken(made, asked)

    def _free(self) -> bool:
        """Whether no Lease is held that excludes ours."""
        held = self._rivals.held() if self._rivals is not None else None
        if held is None:
            return True
        if held != self._said:
            log.warning("waiting: another number of shards is still at work", lease=held, ours=self._lease_name)
        self._said = held
        self._lost()
        return False

    def _taken(self, written: Json, asked: float) -> None:
        """The Lease is ours anew; we lead unless one that excludes it was taken at the same time."""
        self.holder = self.identity
        if self._free():
            self._said = ""
            self._gained(written, asked)
        else:
            self._release()

    def _lease(self, found: Json, spec: Json) -> Json:
        """The Lease as ours, from the one that was read (empty: there is none)."""
        now = _micro(self._clock())
        changes = self.holder != self.identity or not spec
        meta = {"name": self._lease_name, "namespace": self._namespace, **(found.get("metadata") or {})}
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": meta,
            "spec": {
                "holderIdentity": self.identity,
                "leaseDurationSeconds": math.ceil(self._settings.duration_s),
                "acquireTime": now if changes else spec.get("acquireTime", now),
                "renewTime": now,
                "leaseTransitions": int(spec.get("leaseTransitions") or 0) + changes,
            },
        }

    def _gained(self, written: Json, asked: float) -> None:
        self.holder = self.identity
        self._seen = str(written["metadata"]["resourceVersion"]), self._monotonic()
        token = int(written["spec"].get("leaseTransitions") or 0)
        with self._lock:
            self._held = Held(asked + self._settings.renew_deadline_s, token)

    def _lost(self) -> None:
        with self._lock:
            self._held = None

    def _release(self) -> None:
        try:
            found = self._api.get(LEASES, self._namespace, self._lease_name)
            if (found.get("spec") or {}).get("holderIdentity") == self.identity:
                spec = {
                    **found["spec"],
                    "holderIdentity": "",
                    "leaseDurationSeconds": 1,
                    "renewTime": _micro(self._clock()),
                }
                self._api.replace(LEASES, self._namespace, self._lease_name, {**found, "spec": spec})
        except ApiError as error:
            log.warning("the Lease could not be let go; others wait for it to end", reason=error.message)
        self._lost()


def _micro(at: float) -> str:
    """A metav1.MicroTime: always six fractional digits."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

"""TokenPools: watched, told to whoever decides, and their statuses written by the replica that leads."""

from __future__ import annotations

import json
import math
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING

import structlog

from autoscaler.cluster.api import ApiError, NotLeader, Resource
from autoscaler.cluster.reflector import Chosen, Reflector
from autoscaler.crd import GROUP, KIND, PLURAL, VERSION
from autoscaler.crd_pools import admitted, declared_of
from autoscaler.crd_status import patch_of, status_of, urgent
from autoscaler.errors import BadSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from autoscaler.build import Parts
    from autoscaler.cluster.api import Api, Json
    from autoscaler.crd_pools import Admission, Declared, Name
    from autoscaler.model import Decision, RoleDecision
    from autoscaler.settings import Settings

log = structlog.get_logger(__name__)
TOKEN_POOLS = Resource(GROUP, VERSION, PLURAL, KIND)
Marks = frozenset[tuple[tuple[str, str], str, int]]
"""What is declared: (namespace, name), uid and generation of each."""
LOOK_S = 0.5
"""How often what is declared and what is written are looked at."""
REFUSED_S = 60.0
"""How long to wait after the right to write was missing."""


class TokenPools:
    """Follows the TokenPools of some namespaces, or of all.

    Args:
        api: to read with.
        namespaces: to look in; all when empty.
        clock, chance: for the watches' back-off.
        settle_s: a change counts once nothing has changed for so long.
    """

    def __init__(
        self,
        api: Api,
        namespaces: Sequence[str],
        *,
        clock: Callable[[], float],
        chance: Callable[[], float],
        settle_s: float = 0.0,
    ) -> None:
        self._clock, self._settle_s = clock, settle_s
        self._reflectors: list[Reflector[Declared]] = [
            Reflector(api, TOKEN_POOLS, declared_of, clock=clock, chance=chance, chosen=Chosen(namespace))
            for namespace in (namespaces or ("",))
        ]
        self._seen: tuple[Marks, float] | None = None

    def start(self) -> None:
        """Begin to watch."""
        for one in self._reflectors:
            one.start()

    def stop(self) -> None:
        """End."""
        for one in self._reflectors:
            one.stop()

    @property
    def synced(self) -> bool:
        """Whether it is known what is declared, or that it cannot be."""
        return all(one.cache.synced or one.cache.refused is not None for one in self._reflectors)

    @property
    def refused(self) -> str | None:
        """Why they cannot be read, such as a definition that is not installed; None when they can."""
        return next((one.cache.refused for one in self._reflectors if one.cache.refused is not None), None)

    def declared(self) -> dict[Name, Declared]:
        """What is there now."""
        return {one.key: one for reflector in self._reflectors for one in reflector.cache.view().values()}

    def differs(self, from_: Marks) -> bool:
        """Whether something else is declared than then, for long enough. What cannot be read any more has not gone."""
        if not self.synced or self.refused is not None:
            return False
        now, there = self._clock(), marks(self.declared().values())
        if self._seen is None or self._seen[0] != there:
            self._seen = there, now
        return there != from_ and now - self._seen[1] >= self._settle_s


def marks(declared: Iterable[Declared]) -> Marks:
    """What tells one declaration from another: names, uids and generations; a status is no part of it."""
    return frozenset((one.key, one.uid, one.generation) for one in declared)


class Statuses:
    """Writes what became of each TokenPool into its status, where it says something else.

    Args:
        api: to write with; fenced, so that only the leader writes, and limited.
        pools: whose cache is compared with: what was lost or changed by others is written again.
        leads: whether this replica does.
        clock: Unix seconds.
        every_s: counts are written at most so often; what somebody waits for at once.
        mine: whether this replica's shard writes a pool's.
    """

    def __init__(
        self,
        api: Api,
        pools: TokenPools,
        leads: Callable[[], bool],
        clock: Callable[[], float],
        every_s: float,
        mine: Callable[[Name], bool] = lambda _: True,
    ) -> None:
        self._mine = mine
        self._api, self._pools, self._leads, self._clock, self._every_s = api, pools, leads, clock, every_s
        self._lock = Lock()
        self._judged: tuple[Admission, Marks] | None = None
        self._roles: dict[Name, list[RoleDecision]] = {}
        self._written: dict[Name, tuple[float, str]] = {}
        self._quiet_until = 0.0

    def judged(self, admission: Admission, about: Marks) -> None:
        """Take over which pools are accepted; `about` says of which generations."""
        with self._lock:
            self._judged = admission, about

    def decided(self, decision: Decision) -> None:
        """Take over a decision that is served. Writing it is `step`'s, in another thread."""
        roles: dict[Name, list[RoleDecision]] = {}
        for role in decision.roles:
            roles.setdefault((role.key.namespace, role.key.pool), []).append(role)
        with self._lock:
            self._roles = roles

    def step(self) -> None:
        """Write what is due now: those first that were written longest ago."""
        now = self._clock()
        with self._lock:
            judged, roles = self._judged, self._roles
        if judged is None or now < self._quiet_until or not self._leads():
            return
        there = self._pools.declared()
        self._written = {key: last for key, last in self._written.items() if key in there}
        for one in sorted(there.values(), key=lambda each: self._written.get(each.key, (0.0, ""))[0]):
            if (one.key, one.uid, one.generation) not in judged[1] or not self._mine(one.key):
                continue  # changed meanwhile: it is judged first
            refusal, off = judged[0].refused.get(one.key), one.key in judged[0].disabled
            if not self._tell(one, status_of(one, refusal, roles.get(one.key), now, disabled=off), now):
                return

    def _tell(self, one: Declared, wanted: Json, now: float) -> bool:
        """Write it if it is due; False when nothing more is worth trying now."""
        patch = patch_of(wanted, one.status)
        if patch is None:
            return True
        at, said = self._written.get(one.key, (-math.inf, ""))
        text = _timeless(wanted)
        if now - at < self._every_s and (text == said or not urgent(wanted, one.status)):
            return True
        try:
            self._api.patch(TOKEN_POOLS, one.namespace, one.name, {"status": patch}, subresource="status")
        except NotLeader:
            return False
        except ApiError as error:
            if error.absent or error.conflict:
                return True  # it went meanwhile
            log.warning("a status cannot be written", pool=f"{one.namespace}/{one.name}", reason=error.message)
            self._quiet_until = now + (REFUSED_S if error.forbidden else self._every_s)
            return False
        self._written[one.key] = now, text
        return True


def _timeless(status: Json) -> str:
    """A status without the times in it, to be compared."""
    conditions = [{**one, "lastTransitionTime": ""} for one in status["conditions"]]
    return json.dumps({**status, "conditions": conditions}, sort_keys=True)


class Declarations:
    """The TokenPools beside the configuration: which pools there are, and a word when that changes.

    Args:
        base: the configuration. pools, statuses: the two above.
        changed: called, from its thread, when something else is declared than was taken over.
    """

    def __init__(self, base: Settings, pools: TokenPools, statuses: Statuses, changed: Callable[[], None]) -> None:
        self._base, self.pools, self.statuses, self._changed = base, pools, statuses, changed
        self._taken: Marks = frozenset()
        self._stop = Event()
        self._thread = Thread(target=self._run, name="token pools", daemon=True)

    def start(self, longest_s: float, stop: Event) -> None:
        """Begin to watch, and wait until it is known what is declared; no longer than so many seconds."""
        self.pools.start()
        waited = 0.0
        while not self.pools.synced and waited < longest_s and not stop.wait(0.05):
            waited += 0.05
        why = self.pools.refused or ("" if self.pools.synced else "the API server has not answered yet")
        if why and not stop.is_set():
            log.warning("going on without TokenPools until they can be read", reason=why)
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self.pools.stop()

    def taken_over(self, before: Parts) -> Parts:
        """The rules with what is declared now; those from before where they cannot be made."""
        declared = tuple(self.pools.declared().values())
        self._taken = marks(declared)
        try:
            admission = admitted(self._base, declared)
        except BadSettings as error:
            log.warning("keeping the pools as they were", reason=str(error))
            return before
        self.statuses.judged(admission, self._taken)
        for name, why in admission.refused.items():
            log.warning("a TokenPool is not accepted", pool="/".join(name), reason=why.reason, message=why.message)
        log.info(
            "pools", configured=len(self._base.pools), declared=len(admission.accepted), bad=len(admission.refused)
        )
        return admission.parts

    def _run(self) -> None:
        while not self._stop.wait(LOOK_S):
            try:
                if self.pools.differs(self._taken):
                    self._changed()
                self.statuses.step()
            except Exception:  # the thread must outlive a mistake in judging one object
                log.exception("looking after TokenPools failed; going on")

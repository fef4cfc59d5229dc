"""Letting replicas go with what they hold in mind: the emptiest first, out of routing, finished, then gone or asleep.

    serving -> draining (routing label false) -> no requests, or the deadline -> gone, or asleep -> serving again

Pure, and by levels: where a pod stands is written on it (annotations `tidegate.dev/draining` and `/asleep`), so
a crash anywhere loses nothing. Until drained pods have finished, replicas are set to the wish and them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoscaler.cluster.objects import LWS_GROUP
from autoscaler.cluster.pod_actions import Drain, LeaveFirst, Sleep, Undrain, Wake
from autoscaler.cluster.returns import COST
from autoscaler.cluster.sight_types import ASLEEP, DRAINING, WOKEN

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from autoscaler.cluster.actions import Action
    from autoscaler.cluster.engines import EngineLook
    from autoscaler.cluster.objects import Pod
    from autoscaler.cluster.sight_types import PoolSight
    from autoscaler.settings_cluster import ReleaseSettings

SETTLE_S = 5.0
"""After a pod left routing, requests sent just before still arrive for so long; only then can it have finished."""
FIRST = -(2**31 - 1)
"""Deletion cost of what has been drained: below any that a serving or sleeping pod has."""
ORDERED = {"StatefulSet": "apps.kubernetes.io/pod-index", "LeaderWorkerSet": LWS_GROUP}
"""Kinds whose highest number goes first, whatever a pod costs, and the label that numbers them."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What is written on a pod: since when it drains, what routing label it had; since when it sleeps, how far that is.

    `stage`: going, asleep, waking; "" while it does not sleep. `waking_at`: when it was told to wake.
    """

    draining_at: float | None = None
    label: str | None = None
    asleep_at: float | None = None
    stage: str = ""
    waking_at: float | None = None


def standing_of(pod: Pod) -> Standing:
    """Read it; what somebody scribbled there is no mark of ours."""
    drain, sleep = (_read(pod.meta.annotations.get(name)) for name in (DRAINING, ASLEEP))
    label = drain.get("label")
    return Standing(
        _time(drain.get("at")),
        label if isinstance(label, str) else None,
        _time(sleep.get("at")),
        str(sleep.get("stage", "")) if _time(sleep.get("at")) is not None else "",
        _time(sleep.get("waking")),
    )


def woken_of(pod: Pod) -> tuple[float, float] | None:
    """When it was last told to wake, and when it was awake, Unix seconds; None where it never slept."""
    if WOKEN not in pod.meta.annotations:
        return None
    found = _read(pod.meta.annotations[WOKEN])
    asked, served = _time(found.get("asked")), _time(found.get("served"))
    return (asked, served) if asked is not None and served is not None and asked <= served else None


def _read(text: str | None) -> dict[str, object]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _time(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


@dataclass(frozen=True, slots=True)
class Unit:
    """What comes and goes together: a pod, or the group of a LeaderWorkerSet. Its first pod is the one that answers."""

    number: int
    pods: tuple[Pod, ...]

    @property
    def lead(self) -> Pod:
        """The pod that answers."""
        return self.pods[0]

    @property
    def standing(self) -> Standing:
        """As written on its first pod."""
        return standing_of(self.lead)


@dataclass(frozen=True, slots=True)
class Letting:
    """What to do first, and how many replicas to ask for meanwhile. `waiting`: something is still to finish."""

    actions: tuple[Action, ...]
    replicas: int
    waiting: bool = False


def units(pool: PoolSight) -> list[Unit] | None:
    """The living units of a pool, by number; None for kinds of which it is not known who goes first."""
    kind = pool.target.kind if pool.target else ""
    if kind == "Deployment":
        return [Unit(n, (pod,)) for n, pod in enumerate(sorted(pool.living, key=lambda pod: pod.meta.name))]
    name = ORDERED.get(kind)
    if name is None:
        return None
    members: dict[int, list[Pod]] = {}
    for pod in pool.living:
        number = pod.meta.labels.get(name) or pod.meta.name.rpartition("-")[2]
        if not number.isdecimal():
            return None
        members.setdefault(int(number), []).append(pod)
    return [
        Unit(number, tuple(sorted(pods, key=lambda pod: (len(pod.meta.name), pod.meta.name))))
        for number, pods in sorted(members.items())
    ]


@dataclass(frozen=True, slots=True)
class Asked:
    """What letting go of one pool's replicas is reckoned from.

    Attributes:
        wish: replicas that shall serve. pool: as seen. how: as configured.
        looks: what engines said, by pod name. at: Unix seconds.
        may_sleep: whether engines may be put to sleep and woken now. unable: pods whose engines would not be.
    """

    wish: int
    pool: PoolSight
    how: ReleaseSettings
    looks: Mapping[str, EngineLook]
    at: float
    may_sleep: bool = True
    unable: Collection[str] = ()


def letting_go(asked: Asked) -> Letting | None:
    """What to do about one pool; None where its kind allows nothing but setting replicas."""
    found = units(asked.pool)
    scalable, target = asked.pool.scalable, asked.pool.target
    if found is None or scalable is None or target is None or asked.how.route_label in scalable.selector:
        return None  # a pod whose selected label changes is no longer its workload's: another would be made
    if target.kind in ORDERED:
        return _ordered(asked, found)
    return _chosen(asked, found)


def _finished(unit: Unit, asked: Asked) -> bool:
    since = unit.standing.draining_at
    if since is None:
        return False
    if asked.at - since >= max(asked.how.drain_s, SETTLE_S) or not unit.lead.ready:
        return True
    look = asked.looks.get(unit.lead.meta.name)
    return look is not None and look.at >= since + SETTLE_S and look.requests == 0


def _worth(unit: Unit, asked: Asked) -> tuple[float, str]:
    look = asked.looks.get(unit.lead.meta.name)
    if look is not None and look.worth is not None:
        return look.worth, unit.lead.meta.name
    said = unit.lead.meta.annotations.get(COST, "")
    return float(said) if said.lstrip("-").isdecimal() else 0.0, unit.lead.meta.name


def _pods(do: Callable[..., Action], unit: Unit, asked: Asked, why: str) -> list[Action]:
    return [do(asked.pool.key, pod, asked.how, why) for pod in unit.pods]


def _ordered(asked: Asked, found: Sequence[Unit]) -> Letting:
    """The highest numbers go: each once it has finished, and those above it."""
    scalable = asked.pool.scalable
    begin = scalable.first if scalable is not None else 0
    wanted = scalable.wanted if scalable is not None and scalable.wanted is not None else len(found)
    staying = [unit for unit in found if unit.number < begin + asked.wish]
    leaving = [unit for unit in found if begin + asked.wish <= unit.number < begin + wanted]
    why = f"{wanted} replicas shrink to {asked.wish}, and the highest go first"
    actions: list[Action] = []
    for unit in staying:
        if unit.standing.draining_at is not None:
            actions += _pods(Undrain, unit, asked, "it is needed again")
    for unit in leaving:
        if unit.lead.ready and unit.standing.draining_at is None:
            actions += _pods(Drain, unit, asked, why)
    unfinished = [unit.number for unit in leaving if unit.lead.ready and not _finished(unit, asked)]
    replicas = max(unfinished) + 1 - begin if unfinished else asked.wish
    return Letting(tuple(actions), replicas, waiting=bool(unfinished))


def _chosen(asked: Asked, found: Sequence[Unit]) -> Letting:
    """A Deployment: whichever pod costs least goes, so those that have finished are made to cost least."""
    scalable = asked.pool.scalable
    wanted = scalable.wanted if scalable is not None and scalable.wanted is not None else len(found)
    # What was made to go and is more than was asked for is going already, though the cache shows it alive.
    marked = [unit for unit in found if unit.lead.meta.annotations.get(COST) == str(FIRST)]
    departing = marked[: max(0, len(found) - wanted)]
    found = [unit for unit in found if unit not in departing]
    asleep = [unit for unit in found if unit.standing.stage]
    draining = [unit for unit in found if not unit.standing.stage and unit.standing.draining_at is not None]
    serving = [unit for unit in found if not unit.standing.stage and unit.standing.draining_at is None]
    # By what was asked for, not by what there is: a rolling update has more, which are its own to remove.
    surplus = wanted - len(draining) - len(asleep) - asked.wish
    if surplus < 0:
        return _growing(asked, asleep, draining, -surplus)
    coming = max(0, wanted - len(found))  # being created: these need not be drained
    return _shrinking(asked, asleep, draining, serving, surplus - coming)


def _growing(asked: Asked, asleep: Sequence[Unit], draining: Sequence[Unit], short: int) -> Letting:
    """Back into routing first, then awake, and only then new replicas."""
    draining = sorted(draining, key=lambda unit: (-(unit.standing.draining_at or 0.0), unit.lead.meta.name))
    back, left = draining[:short], draining[short:]
    short -= len(back)
    waking = [unit for unit in asleep if unit.standing.stage == "waking" and _able(unit, asked)]
    short = max(0, short - len(waking))
    able = [unit for unit in asleep if unit.standing.stage != "waking" and _able(unit, asked) and asked.may_sleep]
    able.sort(key=lambda unit: (-(unit.standing.asleep_at or 0.0), unit.lead.meta.name))
    woken = able[:short]
    actions: list[Action] = [a for unit in back for a in _pods(Undrain, unit, asked, "it is needed again")]
    for unit in [*waking, *woken]:
        actions += _pods(Wake, unit, asked, f"{asked.wish} replicas shall serve")
    held = len(left) + len(asleep) - len(waking) - len(woken)
    return Letting(tuple(actions), asked.wish + held, waiting=bool(actions))


def _able(unit: Unit, asked: Asked) -> bool:
    return unit.lead.meta.name not in asked.unable


def _shrinking(
    asked: Asked, asleep: Sequence[Unit], draining: Sequence[Unit], serving: Sequence[Unit], surplus: int
) -> Letting:
    """Drain the least worth; put to sleep what has finished, as many as may sleep; let the rest go."""
    unready = sum(not unit.lead.ready for unit in serving)  # these go first by themselves
    ready = sorted((unit for unit in serving if unit.lead.ready), key=lambda unit: _worth(unit, asked))
    leaving = ready[: max(0, surplus - unready)]
    why = f"{len(serving)} replicas shrink to {asked.wish}; it would be missed least"
    actions: list[Action] = [a for unit in leaving for a in _pods(Drain, unit, asked, why)]
    done = [unit for unit in draining if _finished(unit, asked)]
    kept = [unit for unit in asleep if _able(unit, asked)][: asked.how.asleep]
    going = [unit for unit in kept if unit.standing.stage == "going"]
    beds = asked.how.asleep - len(kept) if asked.may_sleep else 0
    to_bed = [unit for unit in done if unit.lead.ready and _able(unit, asked)][: max(0, beds)]
    for unit in [*going, *to_bed] if asked.may_sleep else ():
        actions += _pods(Sleep, unit, asked, f"{asked.wish} replicas are wished for, and {asked.how.asleep} may sleep")
    gone = [unit for unit in [*done, *asleep] if unit not in to_bed and unit not in kept]
    unmarked = [unit for unit in gone if unit.lead.meta.annotations.get(COST) != str(FIRST)]
    for unit in unmarked:
        actions += _pods(LeaveFirst, unit, asked, "it has been drained")
    waited_for = len(leaving) + len(draining) - len(done) + len(unmarked)
    return Letting(
        tuple(actions), asked.wish + waited_for + len(kept) + len(to_bed), waiting=bool(waited_for or to_bed or going)
    )

"""Turns settings into eyes and hands for a cluster. Imported only where there is one: the client alone takes 0.4 s."""

from __future__ import annotations

import random
import socket
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
import urllib3

from autoscaler.cluster import kinds
from autoscaler.cluster.actuators import Actuators
from autoscaler.cluster.api import Api, ApiError
from autoscaler.cluster.audit import Audit, Events
from autoscaler.cluster.connection import RateLimit, connect
from autoscaler.cluster.custom_resources import Declarations, Statuses, TokenPools
from autoscaler.cluster.engines import Engines
from autoscaler.cluster.hands import Hands
from autoscaler.cluster.hands_state import Alone
from autoscaler.cluster.live import Seen
from autoscaler.cluster.preflight import rights, seen_well
from autoscaler.cluster.room import Room, Sharing, look
from autoscaler.cluster.shared import NAME as DECISION
from autoscaler.cluster.shared import Shared
from autoscaler.cluster.sight import SCALABLES, Sight
from autoscaler.cluster.sight_types import PoolRole, SightRules, TargetRef, WeightsSight
from autoscaler.errors import BadSettings, CannotSee
from autoscaler.leadership import Election, Rivals
from autoscaler.model import RoleKey
from autoscaler.profiles import load_profiles
from autoscaler.settings_cluster import BufferSettings
from autoscaler.sharding import Shard, own_parts, own_snapshot, shard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import ExitStack

    from kubernetes.client import ApiClient

    from autoscaler.build import Parts
    from autoscaler.cluster.api import Json
    from autoscaler.model import Decision
    from autoscaler.settings import Settings
    from autoscaler.settings_cluster import Mode, ProvisionSettings, WeightsSettings
    from autoscaler.sharding import Union

log = structlog.get_logger(__name__)
BURST = 20
"""API writes at once before the rate counts."""
PATIENCE_S = 15.0
"""How long a check waits for the caches."""


def sight_rules(settings: Settings, parts: Parts) -> SightRules:
    """How to read the cluster for these pools."""
    own, preemption = settings.cluster, settings.cluster.preemption
    book = load_profiles(Path(settings.profiles_dir) if settings.profiles_dir else None)
    names = {book.canonical(rule.accelerator): rule.accelerator for rule in parts.rules.roles}
    names |= {book.canonical(supply.accelerator): supply.accelerator for supply in settings.supply}
    targets = {
        RoleKey(pool.namespace, pool.name, role): TargetRef(KEYS[said.target.kind], said.target.kind, said.target.name)
        for pool in settings.pools
        for role, said in pool.roles.items()
        if said.target is not None
    }
    return SightRules(
        tuple(PoolRole(rule.key, rule.accelerator, rule.gpus, targets.get(rule.key)) for rule in parts.rules.roles),
        namespace=own.namespace,
        gpu_resources=own.gpu_resources,
        accelerator_labels=own.accelerator_labels,
        topology=own.topology,
        checkpoints=preemption.checkpoint_annotations,
        canonical=lambda text: names.get(book.canonical(text), book.canonical(text)) if text else "",
        trusted=frozenset(preemption.namespaces),
        below_priority=preemption.below_priority,
        min_runtime_s=preemption.min_runtime_s,
        cooldown_s=preemption.cooldown_s,
        evict=preemption.evict,
        soon_s=settings.lead.start_s,
    )


KEYS = {kind: key for key, kind in SCALABLES.items()}


def modes(settings: Settings) -> dict[RoleKey, Mode]:
    """The pools' own modes."""
    return {
        RoleKey(pool.namespace, pool.name, role): pool.mode
        for pool in settings.pools
        if pool.mode is not None
        for role in pool.roles
    }


@dataclass(frozen=True, slots=True)
class Reach:
    """A connection to the API server, and the place among the other replicas; both outlive a change of the pools.

    Attributes:
        made: the official client. plain: to read with. fenced: to write with while we lead.
        identity: who we are. sharing: with whom we take turns; None when alone.
        shard: which pools are ours.
    """

    made: ApiClient
    plain: Api
    fenced: Api
    identity: str
    sharing: Sharing | None
    shard: Shard

    def leads(self) -> bool:
        """Whether this replica may write."""
        return self.sharing is None or self.sharing.election.token() is not None


def open_reach(
    settings: Settings, publish: Callable[[Decision], None], stack: ExitStack, clock: Callable[[], float] = time.time
) -> Reach:
    """Connect, run for leader, and listen to whoever leads; closed with the stack.

    Args:
        settings: what is wanted.
        publish: where a follower's answers come from: the leader's decisions.
        stack: closes it all.
        clock: Unix seconds.

    Raises:
        BadSettings: no usable credentials.
    """
    own = settings.cluster
    made = connect(own.kubeconfig, own.context)
    plain = Api(made)
    stack.callback(plain.close)
    fenced = Api(made, limit=RateLimit(own.budget.writes_per_second, BURST, time.monotonic, time.sleep))
    identity = f"{socket.gethostname()}_{uuid.uuid4()}"
    which = shard(settings)
    if not own.election.enabled:
        return Reach(made, plain, fenced, identity, None, which)
    lease = own.election.lease
    rivals = Rivals(plain, own.namespace, lambda name: which.excludes(name, lease), needed=not which.alone)
    election = Election(
        plain, own.election, own.namespace, identity, clock=clock, lease=which.named(lease), rivals=rivals
    )
    fenced.fence = election.fence
    name = which.named(DECISION)
    shared = Shared(fenced, plain, own.namespace, publish, clock=clock, chance=random.random, name=name)
    sharing = Sharing(shared, election, settings.guards.stabilise_down_s)
    stack.callback(sharing.stop)
    sharing.start()
    return Reach(made, plain, fenced, identity, sharing, which)


def listen(
    settings: Settings, reach: Reach, union: Union, stack: ExitStack, clock: Callable[[], float]
) -> tuple[Shared, ...]:
    """Follow what the other shards decide, until the stack unwinds."""
    found = []
    for index in range(reach.shard.of):
        if index == reach.shard.index:
            continue
        other = Shared(
            reach.fenced,
            reach.plain,
            settings.cluster.namespace,
            partial(union.heard, index),
            clock=clock,
            chance=random.random,
            name=Shard(index, reach.shard.of).named(DECISION),
        )
        stack.callback(other.stop)
        other.start()
        found.append(other)
    return tuple(found)


def open_declarations(
    settings: Settings, reach: Reach, changed: Callable[[], None], stack: ExitStack, clock: Callable[[], float]
) -> Declarations:
    """The TokenPools beside the configuration; start it. `changed` is called, from its thread, when they differ."""
    own = settings.cluster.token_pools
    pools = TokenPools(reach.plain, own.namespaces, clock=clock, chance=random.random, settle_s=own.settle_s)
    # A limit of its own: a thousand statuses must not keep the hands from writing.
    limit = RateLimit(settings.cluster.budget.writes_per_second, BURST, time.monotonic, time.sleep)
    writer = Api(reach.made, limit=limit, fence=reach.fenced.fence)
    statuses = Statuses(writer, pools, reach.leads, clock, own.status_every_s, lambda name: reach.shard.has(*name))
    found = Declarations(settings, pools, statuses, changed)
    stack.callback(found.stop)
    return found


def open_room(
    settings: Settings,
    parts: Parts,
    reach: Reach | Callable[[Decision], None],
    stack: ExitStack,
    clock: Callable[[], float] = time.time,
) -> Room:
    """Begin to look, and to act; closed with the stack.

    Args:
        settings: what is wanted.
        parts: the rules built from it.
        reach: the connection; one is opened for whoever takes a follower's answers instead.
        stack: closes it all, hands first.
        clock: Unix seconds.

    Raises:
        BadSettings: no usable credentials.
    """
    own = settings.cluster
    if not isinstance(reach, Reach):
        reach = open_reach(settings, reach, stack, clock)
    plain, fenced, identity, sharing = reach.plain, reach.fenced, reach.identity, reach.sharing
    http = urllib3.PoolManager()
    stack.callback(http.clear)
    engines = Engines(http, clock)
    stack.callback(engines.close)
    whole, parts = parts, own_parts(parts, reach.shard)
    own, rules = parts.settings.cluster, sight_rules(settings, parts)
    sight = Sight(plain, sight_rules(settings, whole), clock=clock)  # others' pools are no training either
    hands = Hands(
        own,
        rules,
        Actuators(fenced, lambda: sight.served, identity, http, engines),
        _audit(settings),
        Events(fenced, lambda: sight.served, identity),
        leadership=sharing.election if sharing is not None else Alone(),
        modes=modes(settings),
        workers=lambda: workers(plain, sight, own.weights),
        buffers=lambda: buffers(plain, sight, own.provisioning),
    )
    mine = partial(own_snapshot, which=reach.shard)
    oldest_s = settings.serving.hard_age_s
    room = Room(sight, hands, parts.stocks, oldest_s=oldest_s, clock=clock, sharing=sharing, mine=mine)
    stack.callback(room.stop)
    room.start()
    return room


def checked(settings: Settings, parts: Parts) -> list[tuple[bool, str]]:
    """What is right and wrong with the cluster, as (good, sentence). Raises BadSettings: no usable credentials."""
    own = settings.cluster
    with _looking(settings, parts) as (api, sight):
        try:
            seen = sight.snapshot()
            return [*seen_well(seen, sight.rules, own), *rights(api, sight.served, own)]
        except CannotSee as error:
            return [(False, f"the cluster cannot be seen: {error}")]
        except ApiError as error:
            return [(False, f"the cluster does not say what we may do: {error.message}")]


def look_once(settings: Settings, parts: Parts) -> Seen:
    """What the cluster adds to one observation; the settings' stock and a note while it cannot be seen."""
    with _looking(settings, parts) as (_, sight):
        try:
            return look(sight.snapshot(), {stock.accelerator: stock for stock in parts.stocks})
        except CannotSee as error:
            return Seen(parts.stocks, notes=(str(error),))


@contextmanager
def _looking(settings: Settings, parts: Parts) -> Iterator[tuple[Api, Sight]]:
    """Caches that have been given time to fill, for one look. Raises BadSettings: no usable credentials."""
    api = Api(connect(settings.cluster.kubeconfig, settings.cluster.context))
    sight = Sight(api, sight_rules(settings, parts))
    try:
        sight.start()
        deadline = time.monotonic() + PATIENCE_S
        while not sight.ready and time.monotonic() < deadline:
            time.sleep(0.05)
        yield api, sight
    finally:
        sight.stop()
        api.close()


def _audit(settings: Settings) -> Audit:
    file = settings.cluster.audit_file
    try:
        return Audit(Path(file) if file else None)
    except OSError as error:
        raise BadSettings((f"cluster.audit_file: cannot be written: {error}",)) from None


def workers(api: Api, sight: Sight, weights: tuple[WeightsSettings, ...]) -> Mapping[str, WeightsSight]:
    """Weights caches as they are, by `namespace/dataset`; one that cannot be read is left out."""
    found = {}
    for one in weights:
        runtime = _read(api, sight, kinds.RUNTIMES[one.runtime], one.namespace, one.dataset)
        if runtime is None:
            continue
        status = (_read(api, sight, kinds.DATASETS, one.namespace, one.dataset) or {}).get("status") or {}
        share = str((status.get("cacheStates") or {}).get("cachedPercentage", "")).removesuffix("%")
        cached = float(share) / 100.0 if share.replace(".", "", 1).isdecimal() else None
        asked = int((runtime.get("spec") or {}).get("replicas") or 0)
        found[f"{one.namespace}/{one.dataset}"] = WeightsSight(asked, str(status.get("phase", "")), cached)
    return found


def buffers(api: Api, sight: Sight, provisioning: tuple[ProvisionSettings, ...]) -> Mapping[str, int]:
    """Replicas of the CapacityBuffers we order by, by `namespace/name`; one that cannot be read is left out."""
    found = {}
    for one in provisioning:
        if isinstance(one.by, BufferSettings):
            buffer = _read(api, sight, kinds.BUFFERS, one.by.namespace, one.by.name)
            if buffer is not None:
                found[f"{one.by.namespace}/{one.by.name}"] = int((buffer.get("spec") or {}).get("replicas") or 0)
    return found


def _read(api: Api, sight: Sight, key: str, namespace: str, name: str) -> Json | None:
    """An object that is not watched; None, and a word about it, when it cannot be read."""
    resource = sight.served.get(key)
    if resource is None:
        return None
    try:
        return api.get(resource, namespace, name)
    except ApiError as error:
        log.warning("cannot be read", kind=str(resource), namespace=namespace, name=name, reason=error.message)
        return None

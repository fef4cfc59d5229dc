"""What must hold between parts of the configuration: pools that do not overlap, stocks that exist, ages that fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autoscaler.model import Role
    from autoscaler.settings import PoolSettings, Settings
    from autoscaler.settings_cluster import ClusterSettings

KUBE_STATE_KINDS = ("Deployment", "StatefulSet")
"""What kube-state-metrics 2.x counts replicas of."""


def series_match(settings: Settings, pool: PoolSettings, role: Role) -> dict[str, str]:
    """The label values that make a series belong to this role: namespace, model, the pool's and the role's own."""
    own = pool.roles[role]
    match = {settings.source.namespace_label: pool.namespace}
    if pool.model_name is not None:
        match[settings.source.model_label] = pool.model_name
    match |= pool.match
    if not own.match and len(pool.roles) > 1:
        match[settings.source.role_label] = role.value
    return match | own.match


def problems(settings: Settings) -> Iterator[str]:
    """Everything that does not fit together, each as `path: what is wrong and what would be right`."""
    yield from _undeclared(settings)
    yield from pool_problems(settings)
    yield from _unknown_stocks(settings)
    yield from _acted_on(settings)
    yield from _unsplit(settings)
    if settings.source.kind == "scrape" and not settings.source.scrape.targets and not settings.source.scrape.file_sd:
        yield "source.scrape: source.kind is scrape, but neither targets nor file_sd says what to scrape; give one"
    if settings.loop.interval_s >= settings.source.window_s:
        yield (
            f"loop.interval_s: {settings.loop.interval_s:g} is not below source.window_s {settings.source.window_s:g}: "
            "between two ticks would lie load that nobody saw, and nothing would ever shrink; tick more often, or give "
            "a longer window"
        )
    if settings.serving.hard_age_s <= settings.loop.interval_s:
        yield (
            f"serving.hard_age_s: {settings.serving.hard_age_s:g} is not above loop.interval_s "
            f"{settings.loop.interval_s:g}: every answer would be refused as too old before the next tick"
        )


def pool_problems(settings: Settings) -> Iterator[str]:
    """What does not fit together about the pools: asked again where pools come and go while running."""
    yield from _twins(settings)
    yield from _overlaps(settings)
    yield from _shared_targets(settings)
    yield from _uncounted(settings)


def _undeclared(settings: Settings) -> Iterator[str]:
    """Whether pools can come from somewhere."""
    declared = settings.cluster.token_pools.enabled
    if not settings.pools and not declared:
        yield "pools: an empty list is not right: at least one is needed"
    if declared and not settings.cluster.enabled:
        yield "cluster.token_pools.enabled: needs cluster.enabled: true, for they are read from there"


def _unsplit(settings: Settings) -> Iterator[str]:
    """What several shards cannot have in common."""
    own = settings.cluster
    if own.shards.of == 1:
        return
    if not own.enabled or not own.election.enabled:
        yield "cluster.shards.of: shards need cluster.enabled and cluster.election.enabled, each has a leader"
    if not settings.supply:
        yield "cluster.shards.of: several shards split the GPUs that are listed in supply; list them, with gpus"
    for index, supply in enumerate(settings.supply):
        if supply.gpus is None:
            yield f"supply[{index}].gpus: is empty, but cluster.shards.of is {own.shards.of}: say how many are split"
        claimed = {one.accelerator for one in own.provisioning if one.nodeclaim is not None}
        if supply.provisionable_gpus and supply.accelerator not in claimed:
            where = f"supply[{index}].provisionable_gpus"
            yield (
                f"{where}: {supply.provisionable_gpus} needs a nodeclaim for {supply.accelerator!r} in "
                "cluster.provisioning where there are several shards: a node must say whose it is"
            )
    for index, one in enumerate(own.provisioning):
        if one.nodeclaim is None:
            yield (
                f"cluster.provisioning[{index}]: {one.by.kind} is not possible with cluster.shards.of above 1: its "
                "nodes do not say which shard ordered them, so that others would promise their GPUs; use nodeclaim"
            )


def _twins(settings: Settings) -> Iterator[str]:
    seen: dict[tuple[str, str], int] = {}
    for index, pool in enumerate(settings.pools):
        first = seen.setdefault((pool.namespace, pool.name), index)
        if first != index:
            yield (
                f"pools[{index}].name: {pool.namespace}/{pool.name} is the name of pools[{first}] already; "
                "names must differ within a namespace"
            )


def _overlaps(settings: Settings) -> Iterator[str]:
    """Roles whose series are all another's too, which would count them twice.

    Compared through the distinct sets of label names (a handful), so that 1,000 pools do not make a million pairs.
    """
    matches = {
        f"pools[{index}].roles.{role}": series_match(settings, pool, role)
        for index, pool in enumerate(settings.pools)
        if pool.enabled
        for role in pool.roles
    }
    owners: dict[frozenset[str], dict[tuple[str, ...], str]] = {}
    for path, match in matches.items():
        key = tuple(match[name] for name in sorted(match))
        twin = owners.setdefault(frozenset(match), {}).setdefault(key, path)
        if twin != path:
            yield f"{path}: selects the same series as {twin} ({_said(match)}); {_ADVICE}"
    for path, match in matches.items():
        for names, values in owners.items():
            if names < match.keys() and (wider := values.get(tuple(match[name] for name in sorted(names)))):
                yield f"{wider}: selects all series of {path} ({_said(match)}) too; {_ADVICE}"


_ADVICE = "they would be counted twice: add a `match` label that tells them apart"


def _said(match: dict[str, str]) -> str:
    return ", ".join(f"{label}={value}" for label, value in sorted(match.items()))


def _shared_targets(settings: Settings) -> Iterator[str]:
    seen: dict[tuple[str, str, str], str] = {}
    for index, pool in enumerate(settings.pools):
        for role, own in pool.roles.items() if pool.enabled else ():
            path = f"pools[{index}].roles.{role}.target"
            if own.target is not None:
                first = seen.setdefault((pool.namespace, own.target.kind, own.target.name), path)
                if first != path:
                    yield f"{path}: {own.target.kind} {own.target.name} is that of {first} already; one role scales it"


def _unknown_stocks(settings: Settings) -> Iterator[str]:
    names = [supply.accelerator for supply in settings.supply]
    for index, name in enumerate(names):
        if names.index(name) != index:
            yield f"supply[{index}].accelerator: {name!r} is listed already; one entry per accelerator"


def _uncounted(settings: Settings) -> Iterator[str]:
    if settings.source.replica_counts != "kube-state-metrics":
        return
    if settings.source.kind != "prometheus":
        yield "source.replica_counts: kube-state-metrics is read through Prometheus; with kind scrape use targets"
    for index, pool in enumerate(settings.pools):
        for role, own in pool.roles.items() if pool.enabled else ():
            if own.target is None or own.target.kind not in KUBE_STATE_KINDS:
                yield (
                    f"pools[{index}].roles.{role}.target: source.replica_counts is kube-state-metrics, which needs "
                    f"to know whose replicas to count: name a {' or '.join(KUBE_STATE_KINDS)}"
                )


def _by_pool(own: ClusterSettings, pools: set[tuple[str, str]]) -> Iterator[str]:
    """What is said of single pools. Those declared as objects come and go, so that any name may be one of theirs."""
    for name in ("release", "images", "sources"):
        for index, one in enumerate(getattr(own, name)):
            where = f"cluster.{name}[{index}].pool"
            if (one.namespace, one.pool) not in pools and not own.token_pools.enabled:
                yield f"{where}: there is no pool {one.namespace}/{one.pool}; name one of `pools`"
            if any((one.namespace, one.pool) == (other.namespace, other.pool) for other in getattr(own, name)[:index]):
                yield f"{where}: {one.namespace}/{one.pool} is listed already"
    if own.actuator == "metrics" and any(one.drain_s or one.asleep for one in own.release):
        yield (
            "cluster.release: an HPA that follows the number deletes pods at once, drained or not; "
            "draining and sleeping need actuator scale or clamp"
        )


def _acted_on(settings: Settings) -> Iterator[str]:
    """What hands in the cluster need to know."""
    own = settings.cluster
    if not own.enabled:
        return
    known = {supply.accelerator for supply in settings.supply}
    for index, ordered in enumerate(own.provisioning):
        where = f"cluster.provisioning[{index}].accelerator"
        if known and ordered.accelerator not in known:
            yield f"{where}: supply does not list {ordered.accelerator!r} ({', '.join(sorted(known))})"
        if any(ordered.accelerator == other.accelerator for other in own.provisioning[:index]):
            yield f"{where}: {ordered.accelerator!r} is listed already; one way of ordering per accelerator"
    pools = {(pool.namespace, pool.name) for pool in settings.pools}
    yield from _by_pool(own, pools)
    for index, kept in enumerate(own.weights):
        if (kept.namespace, kept.pool) not in pools and not own.token_pools.enabled:
            yield f"cluster.weights[{index}].pool: there is no pool {kept.namespace}/{kept.pool}; name one of `pools`"
        if kept.min_workers > kept.max_workers:
            where = f"cluster.weights[{index}].min_workers"
            yield f"{where}: {kept.min_workers} is above max_workers {kept.max_workers}"

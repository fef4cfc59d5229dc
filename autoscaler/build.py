"""The one place that turns settings into things: rules, sources, worlds, doors."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from autoscaler.cluster import kinds
from autoscaler.cluster.kube_starts import KubeStarts
from autoscaler.cluster.kube_state import KubeStateCounts
from autoscaler.cluster.live import SIGNALS
from autoscaler.cluster.recall import recalled as with_history
from autoscaler.cluster.recall import recalled_days
from autoscaler.credentials import unreadable
from autoscaler.errors import BadSettings
from autoscaler.guards import GuardRules
from autoscaler.learning import Prior
from autoscaler.model import Role, RoleKey, Stock, Tier
from autoscaler.profiles import UNKNOWN, load_profiles
from autoscaler.rules import RoleRules, Rules, SupplyRules
from autoscaler.settings import series_match
from autoscaler.velocity import Engine, Target, link_velocity
from forecasting.damped import DampedQuantile
from forecasting.forecaster import LastValue
from metrics_adapter.board import ROLE_LABEL, WORKLOAD_LABEL, Wish
from metrics_adapter.board import Target as ScaledObject
from metrics_adapter.prometheus import PrometheusSource
from metrics_adapter.prometheus_http import PrometheusAccess
from metrics_adapter.scrape import ScrapeSource
from metrics_adapter.scrape_http import ScrapeOptions
from metrics_adapter.scrape_targets import FileTargets
from metrics_adapter.scrape_targets import Target as ScrapeTarget
from metrics_adapter.signals import Group

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from autoscaler.cluster.live import ReplicaCounts, ReplicaStarts
    from autoscaler.memory import Memory
    from autoscaler.profiles import Profile, ProfileBook
    from autoscaler.settings import PoolSettings, PrometheusSettings, Settings
    from forecasting.forecaster import Forecaster
    from metrics_adapter.signals import MetricSource

UNKNOWN_SD = 30.0
"""Prior of the `unknown` profile: wide enough that the first few loaded windows decide alone (recorded runs)."""
HISTORY_POINTS = 360
"""Bins of load history per role; 6 h in minutes."""
ANY_GPU = "any"
"""Accelerator of pools whose profile names none, when the supply is not listed either."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What `run`, `once` and `check` work with."""

    settings: Settings
    rules: Rules
    groups: dict[RoleKey, Group]
    stocks: tuple[Stock, ...]
    disabled: tuple[Wish, ...]


def profile_book(settings: Settings) -> ProfileBook:
    """The shipped profiles and those of the settings. Raises BadSettings."""
    if settings.profiles_dir is not None and not Path(settings.profiles_dir).is_dir():
        raise BadSettings((f"profiles_dir: {settings.profiles_dir} is no folder; name one with *.yaml profile files",))
    return load_profiles(Path(settings.profiles_dir) if settings.profiles_dir else None)


def parts(settings: Settings, book: ProfileBook | None = None) -> Parts:
    """Rules, groups and stocks from settings.

    Args:
        settings: what is wanted.
        book: the profiles, where they have been read already; that takes 0.1 s.

    Raises:
        BadSettings: a profile or accelerator that does not exist, a token or certificate that cannot be read.
    """
    if book is None:
        book = profile_book(settings)
    problems = list(unreadable(settings))
    roles: list[RoleRules] = []
    groups: dict[RoleKey, Group] = {}
    for index, pool in enumerate(settings.pools):
        for role in pool.roles if pool.enabled else ():
            try:
                rule = _role_rules(settings, book, pool, role)
            except BadSettings as error:
                problems.extend(f"pools[{index}].roles.{role}: {problem}" for problem in error.problems)
                continue
            roles.append(rule)
            groups[rule.key] = Group(str(rule.key), series_match(settings, pool, role))
    if problems:
        raise BadSettings(tuple(problems))
    return Parts(settings, _rules(settings, tuple(roles)), groups, _stocks(settings), _disabled(settings))


def _profile(book: ProfileBook, name: str) -> Profile:
    if name == UNKNOWN:
        return book.profiles[UNKNOWN]
    model, _, rest = name.partition("/")
    accelerator, _, rest = rest.partition("/")
    parallel, _, dtype = rest.partition("/")
    if not parallel.startswith("tp") or not parallel[2:].isdecimal():
        near = difflib.get_close_matches(name.lower(), sorted(book.profiles), n=3, cutoff=0.0)
        raise BadSettings(
            (f"profile {name!r} is not of the form model/accelerator/tpN; nearest: {', '.join(near)}, or `{UNKNOWN}`",)
        )
    return book.find(model, accelerator, int(parallel[2:]), dtype or "bfloat16")


def _role_rules(settings: Settings, book: ProfileBook, pool: PoolSettings, role: Role) -> RoleRules:
    own = pool.roles[role]
    profile = _profile(book, own.profile or pool.profile)
    accelerator = _accelerator(settings, book, pool, profile)
    link = None
    if role is Role.PREFILL and pool.link_gbps is not None:
        link = link_velocity(pool.link_gbps * 1e9 / 8, profile.kv_bytes_per_token)
    return RoleRules(
        key=RoleKey(pool.namespace, pool.name, role),
        engine=Engine(profile.step, profile.kv_capacity_tokens, profile.max_running, profile.max_batched_tokens, link),
        prior=Prior(profile.step, UNKNOWN_SD if profile.name == UNKNOWN else profile.relative_uncertainty),
        profile=profile.name,
        target=Target(pool.slo.ttft_s, pool.slo.itl_s, pool.slo.attainment),
        minimum=own.min_replicas,
        maximum=own.max_replicas,
        accelerator=accelerator,
        gpus=profile.gpus,
        shortage_price=settings.plan.shortage_price * profile.gpus * pool.priority,
    )


def _accelerator(settings: Settings, book: ProfileBook, pool: PoolSettings, profile: Profile) -> str:
    """The supply entry a pool draws on: by its own name, else by its profile's (aliases count)."""
    named = pool.accelerator or (profile.accelerator if profile.name != UNKNOWN else None)
    if not settings.supply:
        return named or ANY_GPU
    for supply in settings.supply:
        if named is not None and book.canonical(supply.accelerator) == book.canonical(named):
            return supply.accelerator
    if named is None and len(settings.supply) == 1:
        return settings.supply[0].accelerator
    offered = ", ".join(supply.accelerator for supply in settings.supply)
    raise BadSettings(
        (f"runs on {named or 'an unknown accelerator'}, which supply does not list ({offered}); set `accelerator`",)
    )


def _rules(settings: Settings, roles: tuple[RoleRules, ...]) -> Rules:
    forecast, guards, made = settings.forecast, settings.guards, settings.plan
    return Rules(
        roles=roles,
        supply=_supply(settings, roles),
        forecaster=_forecaster(settings),
        quantile=forecast.quantile if forecast.quantile_by == "fixed" else None,
        least_quantile=forecast.least_quantile,
        most_quantile=forecast.most_quantile,
        lead_quantile=settings.lead.quantile,
        fallback_margin=0.0 if forecast.kind == "last-value" else forecast.fallback_margin,
        days=forecast.kind == "quantile",
        history_s=forecast.history_s,
        bin_s=max(settings.loop.interval_s, forecast.history_s / HISTORY_POINTS),
        window_s=settings.source.window_s,
        mix_memory_s=max(10 * settings.source.window_s, 4 * settings.loop.interval_s),
        start_deadline_s=guards.start_deadline_s,
        guards=GuardRules(
            guards.stabilise_down_s,
            guards.most_up,
            guards.most_up_replicas,
            guards.most_down,
            guards.hpa_tolerance,
            guards.hold_s,
            guards.hold_quantile,
        ),
        horizon_s=made.horizon_s,
        time_limit_s=made.time_limit_s,
        gap=made.gap,
        budget_per_hour=made.budget_per_hour,
        max_gpus_preempted=made.max_gpus_preempted,
        wake_s=min(settings.lead.wake_s, settings.lead.start_s),
        wake_spread=settings.lead.wake_spread,
    )


def _forecaster(settings: Settings) -> Forecaster:
    return LastValue() if settings.forecast.kind == "last-value" else DampedQuantile()


def _supply(settings: Settings, roles: Sequence[RoleRules]) -> tuple[SupplyRules, ...]:
    lead = settings.lead
    rungs = []
    for supply in settings.supply:
        price, name = supply.price_per_gpu_hour, supply.accelerator
        rungs.append(SupplyRules(Tier.START, name, lead.start_s, price, spread=lead.start_spread))
        if supply.preemptible_gpus:
            rungs.append(
                SupplyRules(
                    Tier.PREEMPT,
                    name,
                    lead.preempt_s,
                    price,
                    supply.preempt_price_per_gpu,
                    supply.preempt_gang,
                    lead.preempt_spread,
                )
            )
        if supply.provisionable_gpus:
            rungs.append(
                SupplyRules(
                    Tier.PROVISION,
                    name,
                    lead.provision_s,
                    price,
                    supply.provision_price_per_gpu,
                    supply.node_gpus,
                    lead.provision_spread,
                    supply.node_commitment_s,
                )
            )
    if not settings.supply:
        names = dict.fromkeys(role.accelerator for role in roles)
        rungs = [SupplyRules(Tier.START, name, lead.start_s, 1.0, spread=lead.start_spread) for name in names]
    return tuple(rungs)


def _stocks(settings: Settings) -> tuple[Stock, ...]:
    return tuple(
        Stock(supply.accelerator, supply.gpus, supply.preemptible_gpus, supply.provisionable_gpus)
        for supply in settings.supply
    )


def _disabled(settings: Settings) -> tuple[Wish, ...]:
    return tuple(
        Wish(
            pool.namespace,
            {WORKLOAD_LABEL: pool.name, ROLE_LABEL: role.value},
            {},
            disabled="`enabled: false` in its configuration",
        )
        for pool in settings.pools
        if not pool.enabled
        for role in pool.roles
    )


def aims(settings: Settings) -> dict[RoleKey, ScaledObject]:
    """The object of each role that names one, as custom metrics describe it."""
    found = {}
    for pool in settings.pools:
        for role, own in pool.roles.items():
            if own.target is not None:
                aim = own.target
                kind = next(kind for kind in (*kinds.WATCHED, *kinds.WRITTEN) if kind.kind == aim.kind)
                api_version = kind.served_as(kind.versions[0]).api_version
                key = RoleKey(pool.namespace, pool.name, role)
                found[key] = ScaledObject(f"{kind.plural}.{kind.group}", api_version, aim.kind, aim.name)
    return found


def access(settings: PrometheusSettings) -> PrometheusAccess:
    """How to reach Prometheus."""
    basic = settings.basic_auth
    headers = {name: value.get_secret_value() for name, value in settings.headers.items()}
    if settings.tenant is not None:
        headers["X-Scope-OrgID"] = settings.tenant
    return PrometheusAccess(
        url=settings.url,
        timeout_s=settings.timeout_s,
        retries=settings.retries,
        backoff_s=settings.backoff_s,
        bearer_token=settings.bearer_token.get_secret_value() if settings.bearer_token else None,
        bearer_token_file=settings.bearer_token_file,
        username=basic.username if basic else None,
        password=basic.password.get_secret_value() if basic and basic.password else None,
        password_file=basic.password_file if basic else None,
        client_cert=settings.cert_file,
        client_key=settings.key_file,
        ca_file=settings.ca_file,
        insecure_skip_verify=settings.insecure_skip_verify,
        headers=headers,
    )


def prometheus_source(settings: Settings) -> PrometheusSource:
    """The Prometheus source, as configured."""
    prometheus = settings.source.prometheus
    return PrometheusSource(
        access(prometheus),
        window_s=settings.source.window_s,
        max_age_s=settings.source.max_age_s,
        discovery_interval_s=prometheus.discovery_interval_s,
        concurrency=prometheus.concurrency,
        signals=SIGNALS,
    )


def source(settings: Settings, clock: Callable[[], float]) -> MetricSource:
    """The configured metric source. Close it."""
    if settings.source.kind == "prometheus":
        return prometheus_source(settings)
    scrape = settings.source.scrape
    fixed = [ScrapeTarget(target.url, target.labels) for target in scrape.targets]
    listed = FileTargets(scrape.file_sd) if scrape.file_sd else None
    options = ScrapeOptions(
        window_s=settings.source.window_s,
        max_age_s=settings.source.max_age_s,
        timeout_s=scrape.timeout_s,
        concurrency=scrape.concurrency,
        interval_s=scrape.interval_s,
    )
    return ScrapeSource(listed if listed is not None else lambda: fixed, options, clock=clock)


def replica_counts(settings: Settings, source: MetricSource) -> ReplicaCounts | None:
    """Who counts replicas, besides the scrape targets themselves; None when nobody does."""
    if settings.source.replica_counts == "targets" or not isinstance(source, PrometheusSource):
        return None
    return KubeStateCounts(source, settings)


def replica_starts(settings: Settings, source: MetricSource) -> ReplicaStarts | None:
    """Who tells how long replicas took to come up; None where nobody does."""
    if settings.source.replica_counts == "targets" or not isinstance(source, PrometheusSource):
        return None
    return KubeStarts(source, settings)


def recalled(memory: Memory, source: MetricSource, parts: Parts, now: float) -> Memory:
    """The memory with the load history that the source knows and the memory does not."""
    if not isinstance(source, PrometheusSource) or not parts.groups:
        return memory
    memory = with_history(memory, source, parts.groups, parts.rules, now)
    return recalled_days(memory, source, parts.groups, parts.rules, now)


def journal_bytes(settings: Settings) -> int:
    """The journal's size limit in bytes."""
    return math.ceil(settings.loop.journal_mb * 1e6)

"""`tidegate check`: everything that must be right before the loop can see, and what to do where it is not."""

from __future__ import annotations

import difflib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoscaler import authority, build
from autoscaler.cluster.live import role_observation
from autoscaler.errors import CannotSee
from autoscaler.hearing import why_blind
from autoscaler.memory import RoleMemory
from autoscaler.model import Observation, RoleKey
from autoscaler.once import counts_now, read_now
from metrics_adapter.engines import NAME_PATTERN
from metrics_adapter.prometheus import PrometheusSource
from metrics_adapter.queries import quoted
from metrics_adapter.signals import SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from autoscaler.build import Parts
    from metrics_adapter.signals import MetricSource, Reading, Readings

MOST_SKEW_S = 5.0
"""Beyond this, sample ages are misjudged by a good part of their limit."""
LOOK_BACK_S = 86_400.0
LOOK_BACK_STEP_S = 300.0
"""How far, and how finely, series that are not there now are looked for; Prometheus shows a sample for 300 s."""
MOST_DIAGNOSED = 50
"""Pools without series whose labels are looked into; one wrong label usually explains all the rest."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: what it is about, whether it is good, and a sentence."""

    about: str
    good: bool
    message: str


def preflight(parts: Parts, now: float) -> list[Finding]:
    """Look at everything: the API groups' owners, then the source; one that cannot be reached ends the list."""
    owned = [Finding("APIService", good, said) for good, said in authority.registered(parts.settings.serving)]
    return [*owned, *_cluster(parts), *_seen(parts, now)]


def _cluster(parts: Parts) -> list[Finding]:
    """The cluster, where one is watched."""
    if not parts.settings.cluster.enabled:
        return []
    from autoscaler.build_cluster import checked  # noqa: PLC0415 - the client takes 0.4 s; only here is it needed

    return [Finding("kubernetes", good, said) for good, said in checked(parts.settings, parts)]


def _seen(parts: Parts, now: float) -> list[Finding]:
    source = build.source(parts.settings, time.time)
    try:
        findings = list(_source(source, now)) if isinstance(source, PrometheusSource) else []
        if any(not finding.good and finding.about == "prometheus" for finding in findings):
            return findings
        try:
            readings = read_now(source, tuple(parts.groups.values()), now)
        except CannotSee as error:
            return [*findings, Finding(source.name, good=False, message=str(error))]
        return [*findings, *_roles(parts, source, readings, now), *_counted(parts, source, now)]
    finally:
        source.close()


def _source(source: PrometheusSource, now: float) -> Iterator[Finding]:
    try:
        before = time.time()
        served = source.server_time()
        mine = (before + time.time()) / 2
        yield Finding("prometheus", good=True, message=f"{source.access.address} answers")
        names = source.names(now)
    except SourceError as error:
        yield Finding("prometheus", good=False, message=str(error))
        return
    skew = served - mine
    if abs(skew) > MOST_SKEW_S:
        side = "ahead of" if skew > 0 else "behind"
        yield Finding(
            "clock",
            good=False,
            message=f"Prometheus is {abs(skew):.1f} s {side} this machine, so ages are wrong: synchronise the clocks",
        )
    else:
        yield Finding("clock", good=True, message=f"{abs(skew):.1f} s apart from Prometheus")
    if names:
        families = sorted({name.replace(":", "_").split("_")[0] for name in names})
        yield Finding("metrics", good=True, message=f"{len(names)} known metric names ({', '.join(families)})")
    else:
        yield Finding(
            "metrics",
            good=False,
            message="no metric of vLLM, SGLang, TensorRT-LLM, Dynamo or the gateway is on this server: is it the one "
            "that scrapes the engines, and does it scrape them at all?",
        )


def _roles(parts: Parts, source: MetricSource, readings: Readings, now: float) -> Iterator[Finding]:
    diagnosed = 0
    for note in readings.notes:
        yield Finding("source", good=True, message=note)
    for key, group in parts.groups.items():
        reading = readings.by_key[group.key]
        if reading.reporting == 0 and reading.stale == 0:
            diagnosed += 1
            causes = ""
            if isinstance(source, PrometheusSource) and diagnosed <= MOST_DIAGNOSED:
                causes = _mismatch(source, group.match, now)
            yield _missing(key, group.match, reading, causes)
        else:
            yield _heard(parts, key, reading, now)


def _heard(parts: Parts, key: RoleKey, reading: Reading, now: float) -> Finding:
    if reading.reporting == 0:
        limit = parts.settings.source.max_age_s
        return Finding(
            str(key),
            good=False,
            message=f"stale: all {reading.stale} engines have only samples older than {limit:g} s, or not finite ones; "
            "this role is blind and will be held",
        )
    age = now - reading.sampled_at if reading.sampled_at is not None else 0.0
    said = f"{reading.reporting} engines report, oldest sample {max(age, 0.0):.0f} s old"
    up = reading.targets_up or 0
    down, silent = (reading.targets or 0) - up, max(0, up - reading.replicas_reporting)
    if reading.stale or silent or down:
        return Finding(
            str(key),
            good=False,
            message=f"{said}; {reading.stale} engines are stale, {down} scrape targets are down and {silent} that are "
            "up report nothing known: the role will not shrink",
        )
    if reading.rate_engines < reading.reporting:
        return Finding(
            str(key),
            good=False,
            message=f"{said}, but only {reading.rate_engines} have two samples within source.window_s "
            f"({parts.settings.source.window_s:g} s): use at least four scrape intervals, or wait",
        )
    why = why_blind(role_observation(key, reading, None), Observation(now, ()), RoleMemory())
    if why is not None:
        return Finding(str(key), good=False, message=f"{said}, but {why}: this role is blind and will be held")
    return Finding(str(key), good=True, message=said)


def _missing(key: RoleKey, match: Mapping[str, str], reading: Reading, causes: str) -> Finding:
    wanted = ", ".join(f"{label}={quoted(value)}" for label, value in sorted(match.items()))
    up = f" {reading.targets_up} of {reading.targets} scrape targets are up." if reading.targets else ""
    if reading.targets_up:
        up += " None of those exposes a metric of a known engine with these labels: is it the engine's own port?"
    return Finding(str(key), good=False, message=f"no engine series with {wanted}.{up}{causes}")


def _mismatch(source: PrometheusSource, match: Mapping[str, str], now: float) -> str:
    """Which label is off: for each, the values it has where all the other labels are as wanted."""
    said = []
    for label, value in sorted(match.items()):
        others = {name: other for name, other in match.items() if name != label}
        pairs = "".join(f",{name}={quoted(other)}" for name, other in sorted(others.items()))
        try:
            values = source.label_values(label, f'{{__name__=~"{NAME_PATTERN}"{pairs}}}', now)
        except SourceError as error:
            return f" (looking for the cause failed: {error})"
        if values and value not in values:
            near = difflib.get_close_matches(value, values, n=1, cutoff=0.0)[0]
            more = f" (of {len(values)} values)" if len(values) > 1 else ""
            said.append(f" {label} is never {quoted(value)} there; the nearest that exists is {quoted(near)}{more}.")
    gone = _gone(source, match, now)
    return "".join([gone, *said]) or _nowhere(source, match, now)


def _nowhere(source: PrometheusSource, match: Mapping[str, str], now: float) -> str:
    """Several labels are off: look at each alone."""
    said = []
    for label, value in sorted(match.items()):
        try:
            values = source.label_values(label, f'{{__name__=~"{NAME_PATTERN}"}}', now)
        except SourceError as error:
            return f" (looking for the cause failed: {error})"
        if not values:
            said.append(f" no engine series has a label {label!r}.")
        elif value not in values:
            near = difflib.get_close_matches(value, values, n=1, cutoff=0.0)[0]
            said.append(f" {label} is never {quoted(value)}; the nearest that exists is {quoted(near)}.")
    return "".join(said) or " Each label value exists, but never together on one series."


def _gone(source: PrometheusSource, match: Mapping[str, str], now: float) -> str:
    """When such series were last there; empty when they were not within LOOK_BACK_S."""
    pairs = "".join(f",{name}={quoted(value)}" for name, value in sorted(match.items()))
    try:
        rows = source.range(f'count({{__name__=~"{NAME_PATTERN}"{pairs}}})', now - LOOK_BACK_S, now, LOOK_BACK_STEP_S)
    except SourceError as error:
        return f" (looking for the cause failed: {error})"
    last = max((points[-1][0] for _, points in rows if points), default=None)
    if last is None:
        return ""
    ago = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(last))
    return f" Such series were there until about {ago}; their targets have gone or can no longer be scraped."


def _counted(parts: Parts, source: MetricSource, now: float) -> Iterator[Finding]:
    """Whether kube-state-metrics counts every role's replicas, where it is to."""
    if parts.settings.source.replica_counts == "targets":
        return
    try:
        counts = counts_now(parts, source, now)
    except CannotSee as error:
        yield Finding("kube-state-metrics", good=False, message=str(error))
        return
    for pool in parts.settings.pools:
        for role, own in pool.roles.items() if pool.enabled else ():
            key = RoleKey(pool.namespace, pool.name, role)
            if key not in counts and own.target is not None:
                yield Finding(
                    str(key),
                    good=False,
                    message=f"kube-state-metrics says nothing of {own.target.kind} {own.target.name} in namespace "
                    f"{pool.namespace}: is it scraped by this Prometheus (with honor_labels), is the name right?",
                )

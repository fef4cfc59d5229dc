"""All policies by name, their knobs from text, and a small tuning grid for each.

    make("keda-queue", {"target": "2", "follow.stabilise_down_s": "60"})

A knob is a field of the policy's dataclass; `follow.X` is a field of how an HPA follows it.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import fields, replace
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from autoscaler.errors import BadSettings
from autoscaler.policies.aibrix_apa import AibrixApa, Cooldown
from autoscaler.policies.cron_hpa import CronHpa
from autoscaler.policies.dynamo import Dynamo, Mode
from autoscaler.policies.dynamo_predict import Predictor
from autoscaler.policies.heteroscale import HeteroScale
from autoscaler.policies.hpa import Hpa, Signal
from autoscaler.policies.keda_epp import KedaEpp, Triggers
from autoscaler.policies.keda_queue import KedaQueue
from autoscaler.policies.keda_token_backlog import KedaTokenBacklog
from autoscaler.policies.knative_kpa import KnativeKpa
from autoscaler.policies.policy import Follow
from autoscaler.policies.ray_serve import RayServe
from autoscaler.policies.static_counts import Static
from autoscaler.policies.token_dynamics import TokenDynamics
from autoscaler.policies.tokenscale import TokenScale
from autoscaler.policies.wva_v1 import WvaV1
from autoscaler.policies.wva_v2 import WvaV2

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autoscaler.policies.policy import Policy

OWN = "token-dynamics"
FIXED = {"name", "follow"}
"""Fields that are no knobs themselves."""
TRUE, FALSE, NONE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}, {"none", ""}

_DYNAMO: dict[str, dict[str, Any]] = {
    "dynamo": {},
    "dynamo-easy-throughput": {"mode": Mode.EASY_THROUGHPUT},
    "dynamo-easy-latency": {"mode": Mode.EASY_LATENCY},
    "dynamo-sla-load": {"mode": Mode.SLA_LOAD},
    "dynamo-sla-throughput": {"mode": Mode.SLA_THROUGHPUT},
    "dynamo-sla-throughput-kalman": {"mode": Mode.SLA_THROUGHPUT, "predictor": Predictor.KALMAN},
    "dynamo-kalman": {"predictor": Predictor.KALMAN},
    "dynamo-half-itl": {"itl_share": 0.5},
    "dynamo-sensitivity-30": {"sensitivity": 0.3},
}
_ENTRIES: dict[str, tuple[type, dict[str, Any]]] = {
    OWN: (TokenDynamics, {}),
    "static-peak": (Static, {"fill": True}),
    "static-mean": (Static, {"fill": False}),
    "hpa-kv": (Hpa, {"signal": Signal.KV, "target": 0.8}),
    "hpa-queue": (Hpa, {"signal": Signal.QUEUE, "target": 5.0}),
    "keda-queue": (KedaQueue, {}),
    "keda-token-backlog": (KedaTokenBacklog, {}),
    "keda-epp-shipped": (KedaEpp, {"per_replica": False}),
    "keda-epp": (KedaEpp, {}),
    "keda-epp-saturation": (KedaEpp, {"triggers": Triggers.SATURATION, "per_replica": False}),
    "keda-epp-queue": (KedaEpp, {"triggers": Triggers.QUEUE}),
    "knative-kpa": (KnativeKpa, {}),
    "aibrix-apa-shipped": (
        AibrixApa,
        {"cooldown": Cooldown.SHIPPED, "silent_is_zero": True, "guard_pending": False},
    ),
    "aibrix-apa": (AibrixApa, {}),
    "ray-serve": (RayServe, {}),
    "heteroscale": (HeteroScale, {}),
    "tokenscale": (TokenScale, {}),
    "wva-v1": (WvaV1, {}),
    "wva-v2-shipped": (WvaV2, {"true_hits": False, "true_arguments": False}),
    "wva-v2": (WvaV2, {}),
    **{name: (Dynamo, presets) for name, presets in _DYNAMO.items()},
    "cronhpa": (CronHpa, {}),
}

POLICIES: Mapping[str, type] = MappingProxyType({name: made for name, (made, _) in _ENTRIES.items()})
"""Every policy's class by its name; variants of one rival share a class."""

_GRIDS: dict[type, tuple[dict[str, str], ...]] = {
    TokenDynamics: tuple(
        {"quantile": q, "stabilise_down_s": s, "fallback_margin": m}
        for q in ("0.7", "0.9")
        for s in ("60", "300")
        for m in ("0.1", "0.3")
    ),
    KedaQueue: tuple({"target": t, "follow.stabilise_down_s": s} for t in ("1", "2", "5", "10") for s in ("60", "300")),
    KedaTokenBacklog: tuple(
        {"threshold_s": t, "kv_target": k} for t in ("0.1", "0.3", "0.7", "1.5") for k in ("0.6", "0.8")
    ),
    KedaEpp: tuple({"kv_target": k, "queue_target": q} for k in ("0.3", "0.5", "0.7", "0.85") for q in ("0.5", "2")),
    KnativeKpa: tuple({"concurrency": c} for c in ("8", "16", "32", "64", "100", "200")),
    AibrixApa: tuple({"target": t, "window_s": w} for t in ("0.1", "0.3", "0.5") for w in ("30", "180"))
    + tuple({"target": "0.3", "prefill_concurrency": c} for c in ("2", "7")),
    RayServe: tuple({"target_ongoing": t, "down_delay_s": d} for t in ("2", "8", "16", "32") for d in ("120", "600")),
    HeteroScale: tuple({"share": s, "in_cooldown_s": c} for s in ("0.5", "0.6", "0.7", "0.8") for c in ("180", "600")),
    TokenScale: tuple({"convertible": c, "uncached": u} for c in ("0", "1", "2", "4") for u in ("false", "true")),
    WvaV1: tuple(
        {"queue_threshold": q, "queue_spare": s, "kv_spare": k}
        for q, s in (("5", "3"), ("3", "2"), ("2", "1"), ("10", "5"))
        for k in ("0.1", "0.2")
    ),
    WvaV2: tuple({"up": u, "down": d} for u, d in (("0.85", "0.7"), ("0.75", "0.6"), ("0.65", "0.5"), ("0.6", "0.4")))
    + tuple({"queue_threshold": q, "up": u, "down": "0.6"} for q in ("2", "3") for u in ("0.75", "0.85")),
    Dynamo: tuple(
        {"throughput_s": t, "sensitivity": s, "itl_share": i}
        for t in ("60", "180")
        for s in ("0.3", "0.8")
        for i in ("0.5", "1")
    ),
}
_THROUGHPUT_GRID = tuple({"throughput_s": t, "itl_share": i} for t in ("60", "180") for i in ("0.5", "1"))
_NAMED_GRIDS: dict[str, tuple[dict[str, str], ...]] = {
    "dynamo-easy-throughput": ({},),
    "dynamo-easy-latency": ({},),
    "dynamo-sla-load": tuple({"sensitivity": s, "itl_share": i} for s in ("0.3", "0.8") for i in ("0.5", "1")),
    "dynamo-sla-throughput": _THROUGHPUT_GRID,
    "dynamo-sla-throughput-kalman": _THROUGHPUT_GRID,
    "keda-epp-saturation": tuple(
        {"saturation_target": s, "running_target": r} for s in ("0.7", "2") for r in ("8", "16", "32", "64")
    ),
    "keda-epp-queue": tuple({"held_target": h} for h in ("0.2", "1", "5")),
    "hpa-kv": tuple(
        {"target": t, "follow.stabilise_down_s": s} for t in ("0.4", "0.5", "0.65", "0.8") for s in ("60", "300")
    ),
    "hpa-queue": tuple(
        {"target": t, "follow.stabilise_down_s": s} for t in ("1", "2", "5", "10") for s in ("60", "300")
    ),
}


def make(name: str, knobs: Mapping[str, str] | None = None) -> Policy:
    """The policy of this name with these knobs, its own defaults for the others.

    Raises:
        BadSettings: naming the policies or knobs there are, or what a value should be.
    """
    made, presets = _entry(name)
    policy = made(name=name, **presets)
    wanted: dict[str, Any] = {}
    following: dict[str, Any] = {}
    for knob, text in (knobs or {}).items():
        head, _, inner = knob.partition(".")
        if head == "follow" and inner in _names(Follow):
            following[inner] = _value(name, knob, _annotation(Follow, inner), getattr(policy.follow, inner), text)
        elif knob in _names(made) - FIXED:
            wanted[knob] = _value(name, knob, _annotation(made, knob), getattr(policy, knob), text)
        else:
            raise BadSettings((_unknown_knob(name, knob, made),))
    try:
        if following:
            wanted["follow"] = _checked_follow(replace(policy.follow, **following))
        return cast("Policy", replace(policy, **wanted))
    except ValueError as error:
        raise BadSettings((f"policy {name}: {error}",)) from error


def knobs_of(name: str) -> Mapping[str, Any]:
    """A policy's knobs and their values by default, `follow.X` included. Raises BadSettings for an unknown name."""
    policy = make(name)
    made = type(policy)
    own = {knob.name: getattr(policy, knob.name) for knob in fields(cast("Any", made)) if knob.name not in FIXED}
    return own | {f"follow.{knob.name}": getattr(policy.follow, knob.name) for knob in fields(Follow)}


def grid(name: str) -> tuple[Mapping[str, str], ...]:
    """At most eight settings to tune a policy on a training slice; one empty one where there is nothing to tune.

    Raises:
        BadSettings: an unknown name.
    """
    made, presets = _entry(name)
    settings = _NAMED_GRIDS.get(name) or _GRIDS.get(made, ({},))
    tuned = ({knob: text for knob, text in one.items() if knob not in presets or made is Hpa} for one in settings)
    return tuple({tuple(one.items()): one for one in tuned}.values())


def _entry(name: str) -> tuple[type, dict[str, Any]]:
    if name in _ENTRIES:
        return _ENTRIES[name]
    near = difflib.get_close_matches(name, _ENTRIES, 1)
    hint = f", did you mean {near[0]}" if near else ""
    raise BadSettings((f"no policy {name!r}{hint}. There are: {', '.join(_ENTRIES)}",))


def _names(made: type) -> set[str]:
    return {knob.name for knob in fields(cast("Any", made))}


def _annotation(made: type, knob: str) -> str:
    return next(str(one.type) for one in fields(cast("Any", made)) if one.name == knob)


def _unknown_knob(name: str, knob: str, made: type) -> str:
    there = sorted(_names(made) - FIXED) + [f"follow.{inner}" for inner in sorted(_names(Follow))]
    near = difflib.get_close_matches(knob, there, 1)
    hint = f", did you mean {near[0]}" if near else ""
    return f"policy {name} has no knob {knob!r}{hint}. There are: {', '.join(there)}"


def _checked_follow(follow: Follow) -> Follow:
    """The same, when it makes sense. Raises ValueError otherwise."""
    if not follow.sync_s > 0:
        raise ValueError(f"follow.sync_s {follow.sync_s}: must be above 0")
    for knob in fields(follow):
        value = getattr(follow, knob.name)
        if value is not None and value < 0:
            raise ValueError(f"follow.{knob.name} {value}: must not be negative")
    return follow


def _value(name: str, knob: str, annotation: str, default: Any, text: str) -> Any:
    """The text as the knob's type. Raises BadSettings saying what it should be."""
    kind, _, optional = annotation.partition(" | ")
    plain = text.strip()
    if optional == "None" and plain.lower() in NONE:
        return None
    found = _parsed(kind, default, plain, text)
    if found is not None:
        return found
    wanted = {"float": "a finite number", "int": "a whole number", "bool": "true or false"}.get(kind)
    if isinstance(default, Enum):
        wanted = "one of " + ", ".join(str(one.value) for one in type(default))
    more = " or none" if optional == "None" else ""
    raise BadSettings((f"policy {name}: {knob} is {text!r}; it must be {wanted}{more}",))


def _parsed(kind: str, default: Any, plain: str, text: str) -> Any:
    """The text as a value of this kind; None when it is none."""
    if isinstance(default, Enum):
        return next((one for one in type(default) if one.value == plain), None)
    if kind == "bool":
        return True if plain.lower() in TRUE else False if plain.lower() in FALSE else None
    if kind == "str":
        return text
    try:
        number = int(plain) if kind == "int" else float(plain)
    except ValueError:
        return None
    return number if math.isfinite(number) else None

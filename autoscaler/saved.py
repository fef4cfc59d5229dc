"""Memory as JSON's own types and back; what does not fit is refused, because the file may have been damaged."""

from __future__ import annotations

import math
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any

import numpy as np

from autoscaler.foresight import BEGIN_SHARE, BOTH, Kept
from autoscaler.leadtimes import LeadTimes
from autoscaler.learning import Learned
from autoscaler.memory import Gauges, Memory, RoleMemory, Shape
from autoscaler.model import RoleKey, Step, Tier
from autoscaler.saved_days import days_of, plain_days
from autoscaler.skew import Skew
from forecasting.durations import Durations
from forecasting.series import Series

if TYPE_CHECKING:
    from collections.abc import Callable

    from forecasting.series import Ints

PENDING = (3, BOTH)
"""Figures of a bound that waits to be judged, without and with a choice."""
VERSION = 1
"""Of the saved form; another version is not read (the loop starts in caution instead)."""


def to_saved(memory: Memory) -> dict[str, Any]:
    """The memory as JSON's own types; load histories as base64 of little-endian doubles, which is exact.

    Saved at almost every tick in a large fleet, so it has to be quick: 1,000 roles with 6 h of history each were 17 MB
    and 1.5 s as lists of numbers, and are 10 MB and 0.1 s like this.
    """
    roles = {}
    for key, known in memory.roles.items():
        roles[str(key)] = _flat(known) | {
            "prompt_load": _plain_series(known.prompt_load),
            "output_load": _plain_series(known.output_load),
            "learned": _flat(known.learned),
            "skew": _flat(known.skew),
            "gauges": [_flat(gauges) for gauges in known.gauges],
            "shape": _flat(known.shape),
            "leads": _plain_leads(known.leads),
            "kept": [_flat(kept) for kept in known.kept],
        }
    return {"version": VERSION, "at": memory.at, "roles": roles, "days": plain_days(memory.days)}


def _plain_leads(leads: LeadTimes) -> dict[str, Any]:
    """Durations by `tier/step`."""
    steps = {f"{tier}/{step}": _flat(durations) for (tier, step), durations in leads.steps.items()}
    return {"steps": steps, "counted": leads.counted}


def _leads(plain: Any) -> LeadTimes:
    steps = {}
    for name, saved in plain["steps"].items():
        tier, _, step = name.partition("/")
        logs = _reals(saved["logs"], len(saved["logs"]))
        steps[Tier(tier), Step(step)] = Durations(
            logs,
            _reals(saved["together"], len(logs)),
            tuple(_positive(each) for each in _reals(saved["weights"], len(logs))),
            _whole(saved["count"]),
            _whole(saved["jumps"]),
        )
    return LeadTimes(steps, tuple((str(name), _real(at)) for name, at in plain["counted"]))


def _kept(saved: dict[str, Any]) -> Kept:
    # Bounds saved without their quantile, by an earlier version, can no longer be judged.
    pending = tuple(tuple(_real(each) for each in one) for one in saved["pending"] if len(one) in PENDING)
    later = {"share": BEGIN_SHARE, "width": 1.0, "changes_loss": 0.0, "days_loss": 0.0, "compared": 0.0}
    figures = {name: _real(saved.get(name, usual)) for name, usual in later.items()}
    return Kept(Tier(saved["tier"]), pending, _real(saved["held"]), _real(saved["judged"]), **figures)


def _flat(value: RoleMemory | Learned | Skew | Gauges | Shape | Durations | Kept) -> dict[str, Any]:
    """A dataclass's fields, not looking inside them."""
    return {name: getattr(value, name) for name in value.__slots__}


def from_saved(plain: Any) -> Memory:
    """Inverse of `to_saved`. Raises ValueError, KeyError, TypeError or AttributeError on anything else."""
    if plain["version"] != VERSION:
        raise ValueError(f"version {plain['version']!r}; this program reads version {VERSION}")
    roles = {RoleKey.parse(key): _role(dict(saved)) for key, saved in plain["roles"].items()}
    return Memory(roles, None if plain["at"] is None else float(plain["at"]), days_of(plain.get("days")))


def _role(saved: dict[str, Any]) -> RoleMemory:
    return RoleMemory(
        prompt_load=_series(saved.pop("prompt_load")),
        output_load=_series(saved.pop("output_load")),
        learned=_learned(dict(saved.pop("learned"))),
        skew=_skew(dict(saved.pop("skew", {}))),
        gauges=tuple(Gauges(**_each(gauges, _real)) for gauges in saved.pop("gauges")),
        shape=Shape(**_each(saved.pop("shape"), _real)),
        engines_per_replica=max(1, _whole(saved.pop("engines_per_replica"))),
        desired=None if (desired := saved.pop("desired")) is None else _whole(desired),
        leads=_leads(leads) if (leads := saved.pop("leads", None)) is not None else LeadTimes.none(),
        under_way=max(1, _whole(saved.pop("under_way", 1))),
        counts=tuple((_real(at), _whole(count)) for at, count in saved.pop("counts", ())),
        kept=tuple(_kept(kept) for kept in saved.pop("kept", ())),
        plans=tuple((_real(at), _whole(count)) for at, count in saved.pop("plans")),
        **_each(saved, _real),
    )


def _learned(saved: dict[str, Any]) -> Learned:
    scale = saved.pop("scale")
    return Learned(
        precision=_reals(saved.pop("precision"), 16),
        moment=_reals(saved.pop("moment"), 4),
        scale=None if scale is None else _reals(scale, 4),
        **_each(saved, _real),
    )


def _skew(saved: dict[str, Any]) -> Skew:
    at = saved.pop("at", None)
    skew = Skew(at=None if at is None else _real(at), **{name: _real(value) for name, value in saved.items()})
    if min(skew.level_variance, skew.loss_variance) < 0:
        raise ValueError(f"variances {skew.level_variance!r}, {skew.loss_variance!r} where none may be below 0")
    return skew


def _each(saved: dict[str, Any], check: Callable[[Any], float]) -> dict[str, Any]:
    """Every value checked; None stays None."""
    return {name: None if value is None else check(value) for name, value in saved.items()}


def _real(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{value!r} where a finite number belongs")
    return float(value)


def _positive(value: float) -> float:
    if value <= 0:
        raise ValueError(f"{value!r} where a number above 0 belongs")
    return value


def _whole(value: Any) -> int:
    if not _real(value).is_integer() or value < 0:
        raise ValueError(f"{value!r} where a whole number, not negative, belongs")
    return int(value)


def _reals(values: Any, count: int) -> tuple[float, ...]:
    if len(values) != count:
        raise ValueError(f"{len(values)} numbers where {count} belong")
    return tuple(_real(value) for value in values)


def _plain_series(series: Series) -> dict[str, Any]:
    return {
        "bin_s": series.bin_s,
        "keep": series.keep,
        "runs": _runs(series.bins),
        "values": b64encode(series.values.astype("<f8").tobytes()).decode(),
        "newest": series.newest,
    }


def _runs(bins: Ints) -> list[tuple[int, int]]:
    """Bins as (first, how many): a history without gaps is one run."""
    if len(bins) and int(bins[-1]) - int(bins[0]) == len(bins) - 1:
        return [(int(bins[0]), len(bins))]
    starts = np.flatnonzero(np.diff(bins, prepend=bins[:1] - 2) != 1)
    lengths = np.diff(starts, append=len(bins))
    return list(zip(bins[starts].tolist(), lengths.tolist(), strict=True))


def _series(plain: Any) -> Series:
    """Bins come back with a count of one sample each; the newest sample keeps its own time."""
    values = np.frombuffer(b64decode(plain["values"], validate=True), "<f8")
    runs = [(_whole(abs(first)) * (1 if first >= 0 else -1), _whole(length)) for first, length in plain["runs"]]
    if sum(length for _, length in runs) != len(values):
        raise ValueError(f"{len(values)} values where the runs {runs[:3]} ... have others")
    bins = [np.arange(first, first + length, dtype=np.int64) for first, length in runs]
    newest = None if plain["newest"] is None else _reals(plain["newest"], 2)
    return Series.binned(
        np.concatenate([np.empty(0, np.int64), *bins]),
        values,
        None if newest is None else (newest[0], newest[1]),
        _real(plain["bin_s"]),
        _whole(plain["keep"]),
    )

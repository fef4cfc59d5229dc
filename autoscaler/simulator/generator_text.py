"""Reads the one-line specification of generated workloads; see `autoscaler.simulator.generate` for its grammar."""

from __future__ import annotations

import dataclasses
import difflib
from typing import TYPE_CHECKING

from autoscaler.errors import BadSettings
from autoscaler.simulator.generator_spec import GeneratorSpec, StreamSpec
from autoscaler.simulator.lengths import mix_of
from autoscaler.simulator.shapes import Diurnal, OnOff, Ramp, Spike, Step
from autoscaler.simulator.tables import number

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autoscaler.simulator.shapes import Shape

_SHAPES: Mapping[str, type[Diurnal | OnOff | Ramp | Step | Spike]] = {
    "diurnal": Diurnal,
    "onoff": OnOff,
    "ramp": Ramp,
    "step": Step,
    "spike": Spike,
}
_STEADY = {"poisson": 1.0, "gamma": 3.2}
"""Shapes without a factor, and their cv. Clients of ServeGen's m-large have 3.2, weighted by rate."""

_STREAM_KEYS = ("rate", "duration", "cv", "lengths", "cached")
_LARGEST_SPEC = 10_000


def parse_generator(text: str) -> GeneratorSpec:
    """A generator from its text, with or without the leading `gen:`.

    Raises:
        BadSettings: naming the part that cannot be read and what would be right.
    """
    said = text.strip()
    if len(said) > _LARGEST_SPEC:
        raise BadSettings((f"the generator's text has {len(said)} characters; at most {_LARGEST_SPEC}",))
    body = said.removeprefix("gen:")
    try:
        return GeneratorSpec(said if said.startswith("gen:") else f"gen:{said}", tuple(map(_stream, body.split("&"))))
    except ValueError as error:
        raise BadSettings((f"{said}: {error}",)) from None


def _stream(text: str) -> StreamSpec:
    shapes, *pairs = [part.strip() for part in text.replace(";", ",").split(",")]
    names = [name.strip() for name in shapes.split("+")]
    for name in names:
        if name not in _SHAPES and name not in _STEADY:
            raise ValueError(f"{name!r} is not a shape; {_choices(name, [*_STEADY, *_SHAPES])}")
        if names.count(name) > 1:
            raise ValueError(f"the shape {name} stands twice; a stream can have each once (sum streams with &)")
    own: dict[str, dict[str, object]] = {name: {} for name in names if name in _SHAPES}
    stream: dict[str, object] = (
        {"cv": max(_STEADY[name] for name in names if name in _STEADY)} if _steady(names) else {}
    )
    written: set[str] = set()
    for pair in pairs:
        key, mark, value = (part.strip() for part in pair.partition("="))
        if not mark or not value:
            raise ValueError(f"{pair!r} is not key=value")
        if key in written:
            raise ValueError(f"{key} is given twice")
        written.add(key)
        if key in _STREAM_KEYS:
            stream[key] = value if key in {"lengths", "cached"} else _number(key, value)
        else:
            name, field = _owner(key, own)
            own[name][field] = _value(name, key, value)
    return _built(stream, [_SHAPES[name](**own[name]) for name in own])  # type: ignore[arg-type]


def _steady(names: list[str]) -> bool:
    return any(name in _STEADY for name in names)


def _built(stream: dict[str, object], shapes: list[Shape]) -> StreamSpec:
    values = dict(stream)
    lengths, cached = values.pop("lengths", None), values.pop("cached", None)
    try:
        mix = mix_of(str(lengths)) if lengths is not None else StreamSpec().mix
    except BadSettings as error:
        raise ValueError(str(error)) from None
    if cached is not None:
        probability, mark, share = str(cached).partition("/")
        if not mark:
            raise ValueError(f"cached={cached}: give PROBABILITY/SHARE, such as 0.5/0.8")
        mix = dataclasses.replace(
            mix, cached_probability=_number("cached", probability), cached_share=_number("cached", share)
        )
    return StreamSpec(shapes=tuple(shapes), mix=mix, **values)  # type: ignore[arg-type]


def _keys(name: str) -> list[str]:
    return [_said(field.name) for field in dataclasses.fields(_SHAPES[name])]


def _said(field: str) -> str:
    return "at" if field == "at_s" else field


def _owner(key: str, own: Mapping[str, object]) -> tuple[str, str]:
    """Shape and field of a key: `to`, or `step.to` where more than one shape has it."""
    shape, mark, rest = key.partition(".")
    owners = [shape] if mark and shape in own and rest in _keys(shape) else []
    if not mark:
        owners, rest = [name for name in own if key in _keys(name)], key
    if len(owners) > 1:
        raise ValueError(f"{key} could be {' or '.join(f'{name}.{key}' for name in owners)}; write which")
    if not owners:
        raise ValueError(f"{key!r} is not a key here; {_choices(key, [*_STREAM_KEYS, *_all_keys(own)])}")
    return owners[0], "at_s" if rest == "at" else rest


def _all_keys(own: Mapping[str, object]) -> list[str]:
    return [key for name in own for key in _keys(name)]


def _choices(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return (f"did you mean {near[0]}? " if near else "") + f"choose from {', '.join(dict.fromkeys(known))}"


def _number(key: str, text: str) -> float:
    try:
        return number(text)
    except ValueError as error:
        raise ValueError(f"{key}={text} {error}") from None


def _value(name: str, key: str, text: str) -> float | tuple[float, ...]:
    if name == "step":
        return tuple(_number(key, part) for part in text.split("/"))
    return _number(key, text)

"""Workloads from a line of text: no data files needed. Same specification and seed, same bytes.

    gen:SHAPE[+SHAPE...],key=value,...        for example
    gen:diurnal,rate=20,peak=3,period=3600,duration=7200,lengths=azure-conv
    gen:gamma+spike,rate=5,cv=3.2,at=900,height=10,lengths=4000/1000

Shapes multiply: `diurnal+onoff` is bursts that are more frequent by day. Streams joined by & are summed and become
classes 0, 1, ...: `gen:poisson,rate=5,lengths=azure-conv & spike,rate=1,lengths=azure-code`. Commas may be written
as semicolons. Without lengths or rate, 10 requests/s of azure-conv come for an hour.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from autoscaler.errors import BadSettings
from autoscaler.simulator.generator_spec import GeneratorSpec, StreamSpec
from autoscaler.simulator.generator_text import parse_generator
from autoscaler.simulator.lengths import draw_mix
from autoscaler.simulator.renewal import first_wait, points
from autoscaler.simulator.requests import MOST_REQUESTS, Workload

if TYPE_CHECKING:
    from autoscaler.simulator.requests import Floats

__all__ = ["GeneratorSpec", "StreamSpec", "generate"]

_FEWEST_STEPS, _MOST_STEPS = 3600, 700_000


def generate(spec: str | GeneratorSpec, seed: int) -> Workload:
    """Draw a workload.

    Args:
        spec: what to generate, or its text (see the module).
        seed: >= 0; each stream has a random sequence of its own.

    Raises:
        BadSettings: a text that cannot be read, a negative seed, more than MOST_REQUESTS requests expected.
    """
    if seed < 0:
        raise BadSettings((f"seed is {seed}; it must be >= 0",))
    plan = parse_generator(spec) if isinstance(spec, str) else spec
    try:
        streams = [_stream(stream, np.random.default_rng([seed, at])) for at, stream in enumerate(plan.streams)]
    except ValueError as error:
        raise BadSettings((f"{plan.name}: {error}",)) from None
    return _summed(plan, streams, seed)


def _stream(stream: StreamSpec, random: np.random.Generator) -> Workload:
    marks, reached = _expected(stream, random)
    total = float(reached[-1])
    if total > MOST_REQUESTS:
        raise ValueError(f"{total:,.0f} requests expected; at most {MOST_REQUESTS:,}: lower the rate or the duration")
    positions, _ = points(total, stream.cv, first_wait(stream.cv, random), random)
    arrival_s = np.interp(positions, reached, marks)
    prompt, output, cached = draw_mix(stream.mix, len(arrival_s), random)
    return Workload("", arrival_s, prompt, output, cached=cached, horizon_s=stream.duration)


def _expected(stream: StreamSpec, random: np.random.Generator) -> tuple[Floats, Floats]:
    """Times, and the requests expected up to each: the integral of the rate, held constant between edges and steps."""
    steps = int(np.clip(math.ceil(stream.duration), _FEWEST_STEPS, _MOST_STEPS))
    edges = [shape.edges(stream.duration, random) for shape in stream.shapes]
    within = [one[(one > 0) & (one < stream.duration)] for one in edges]
    marks = np.unique(np.concatenate([np.linspace(0.0, stream.duration, steps + 1), *within]))
    middles = (marks[1:] + marks[:-1]) / 2
    rate = np.full(len(middles), stream.rate)
    for shape, jumps in zip(stream.shapes, edges, strict=True):
        rate = rate * shape.at(middles, jumps)
    return marks, np.concatenate([[0.0], np.cumsum(rate * np.diff(marks))])


def _summed(plan: GeneratorSpec, streams: list[Workload], seed: int) -> Workload:
    if sum(map(len, streams)) > MOST_REQUESTS:
        raise BadSettings((f"{plan.name}: the streams have more than {MOST_REQUESTS:,} requests together",))
    arrival_s = np.concatenate([stream.arrival_s for stream in streams])
    order = np.argsort(arrival_s, kind="stable")
    cached = None
    if any(stream.cached is not None for stream in streams):
        none = [np.zeros(len(stream), np.int32) if stream.cached is None else stream.cached for stream in streams]
        cached = np.concatenate(none)[order]
    kinds = np.repeat(np.arange(len(streams)), [len(stream) for stream in streams]).astype(np.int8)
    return Workload(
        plan.name,
        arrival_s[order],
        np.concatenate([stream.prompt for stream in streams])[order],
        np.concatenate([stream.output for stream in streams])[order],
        cached=cached,
        kind=kinds[order] if len(streams) > 1 else None,
        notes=(f"generated with seed {seed}",),
        horizon_s=max(stream.duration for stream in plan.streams),
    )

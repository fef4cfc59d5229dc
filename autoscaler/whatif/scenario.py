"""What is asked: scenarios, grids over them and random search, as frozen values that a YAML file or Python may give."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Discriminator, Field, Tag, ValidationError, model_validator

from autoscaler.settings_types import Door, Namespace, Price, Replicas, Seconds, SomePrice, SomeReplicas, Text, Url

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Factor = Annotated[float, Field(gt=0, le=1000)]
Share = Annotated[float, Field(ge=0, le=1)]
MOST_SCENARIOS = 100_000
"""More than this is a slip in a grid, not a question."""


class HistoryFile(Door):
    """A trace file, in any format that `tidegate simulate` reads."""

    kind: Literal["trace"] = "trace"
    trace: Text = Field(..., description="Path of the file; FILE#COLUMN names a column of a demand file.")
    format: Text = Field("demand", description="azure, mooncake, burstgpt, servegen, requests or demand.")
    scale: str = Field("", description="superpose:20, compress:20 or thin:0.5; several with commas.")
    input_tokens: Annotated[float, Field(ge=1, le=10_000_000)] | None = Field(
        None, description="Tokens per request, for demand without that column."
    )
    output_tokens: Annotated[float, Field(ge=1, le=10_000_000)] | None = Field(
        None, description="Tokens per request, for demand without that column."
    )


class HistoryGenerator(Door):
    """A generated workload: no file is needed."""

    kind: Literal["generator"] = "generator"
    spec: Text = Field(..., description="Such as gen:diurnal,rate=20,peak=3,period=86400,duration=604800.")


class HistoryJournal(Door):
    """The journal a running Tidegate wrote."""

    kind: Literal["journal"] = "journal"
    journal: Text = Field(..., description="Path of the journal.")
    pool: str | None = Field(None, description="namespace/pool; none: every pool in it.")
    step_s: Seconds = Field(60.0, description="Width of a bin of demand.")


class HistoryPrometheus(Door):
    """Rates recorded by a Prometheus."""

    kind: Literal["prometheus"] = "prometheus"
    url: Url = Field(..., description="Base address.")
    requests: str | None = Field(None, description="PromQL of requests/s; none: what vLLM exports.")
    input_tokens: str | None = Field(None, description="PromQL of prompt tokens/s; none: what vLLM exports.")
    output_tokens: str | None = Field(None, description="PromQL of output tokens/s; none: what vLLM exports.")
    end: float | None = Field(None, description="Unix time of its end; none: the server's now.")
    duration_s: Annotated[float, Field(gt=0, le=366 * 86_400)] = Field(604_800.0, description="Seconds back from it.")
    step_s: Seconds = Field(60.0, description="Width of a bin of demand.")


def _kind(value: Any) -> str:
    """Which door a history goes through: its `kind`, or the key that only one of them has."""
    if not isinstance(value, dict):
        return str(getattr(value, "kind", "trace"))
    keys = {"trace": "trace", "spec": "generator", "journal": "journal", "url": "prometheus"}
    return str(value.get("kind") or next((kind for key, kind in keys.items() if key in value), "trace"))


AnyHistory = HistoryFile | HistoryGenerator | HistoryJournal | HistoryPrometheus
History = Annotated[
    Annotated[HistoryFile, Tag("trace")]
    | Annotated[HistoryGenerator, Tag("generator")]
    | Annotated[HistoryJournal, Tag("journal")]
    | Annotated[HistoryPrometheus, Tag("prometheus")],
    # A function, because the doors look at every value before it is one: pydantic cannot tell by `kind` alone then.
    Discriminator(_kind, "history_kind", "kind must be trace, generator, journal or prometheus"),
]


class PolicyChoice(Door):
    """Who decides."""

    name: Text = Field("token-dynamics", description="See `tidegate compare --list`; oracle is the lower bound.")
    knobs: dict[str, str | float | int | bool] = Field(default_factory=dict, description="Its knobs.")


class SloChoice(Door):
    """What counts as served well; what is left out is TokenScale's (250/400/2,000 ms by input size, 100 ms)."""

    ttft_s: Seconds | None = Field(None, description="One TTFT for requests of any size.")
    tpot_s: Seconds = Field(0.1, description="Mean time per output token.")
    attainment: Share = Field(0.95, description="Share of requests to serve within both.")


class Gang(Door):
    """A training job whose GPUs may be borrowed."""

    gpus: Annotated[int, Field(ge=1, le=100_000)] = Field(8, description="GPUs, all of them or none.")
    priority: int = Field(0, description="Lower ones are taken first.")
    checkpoint_s: Seconds = Field(1800.0, description="Between checkpoints; work since the last one is lost.")
    requeue_s: Seconds = Field(300.0, description="Of work that starting again costs.")
    count: Annotated[int, Field(ge=1, le=10_000)] = Field(1, description="So many like it.")


class SupplyChoice(Door):
    """Where GPUs come from and how long that takes."""

    gpus: Replicas | None = Field(None, description="Prepared GPUs; none: as many as the bounds allow.")
    node_gpus: SomeReplicas = Field(8, description="GPUs of a node.")
    nodes_to_buy: Replicas = Field(0, description="Nodes that can be provisioned.")
    gangs: tuple[Gang, ...] = Field((), description="Training jobs on further GPUs.")
    start_s: tuple[Seconds, Seconds] | None = Field(
        None, description="Median and 90th percentile of a start; none: the sum of the shipped steps."
    )
    start_scale: Factor = Field(1.0, description="All starts take so many times as long; 0.7 is 30 % faster.")
    weights: Text = Field("nvme-default", description="Source of weights, as in lead-times.yaml.")
    peers: bool = Field(default=False, description="Weights are read from serving replicas as soon as there is one.")
    image_cached: bool = Field(default=True, description="Prepared nodes have the image.")
    compile_cached: bool = Field(default=False, description="Compiled artefacts are there.")
    sleepers: Replicas = Field(0, description="Replicas kept asleep instead of being deleted.")
    price_per_gpu_hour: SomePrice | None = Field(None, description="None: the accelerator's shipped price.")
    lost_work_price: Price = Field(1.0, description="What a lost training GPU-hour costs, in GPU-hours' prices.")


class FaultChoice(Door):
    """Something that goes wrong."""

    kind: Literal["stale", "missing", "unreadable", "kill", "no-nodes", "slow-weights", "slow-engines"] = Field(
        ..., description="What."
    )
    at_s: Annotated[float, Field(ge=0)] = Field(..., description="Seconds from the start.")
    for_s: Annotated[float, Field(gt=0)] | None = Field(None, description="Seconds it lasts; none: to the end.")
    amount: Annotated[float, Field(ge=0, le=1e6)] = Field(1.0, description="How much; see the simulator's faults.")


class PoolShare(Door):
    """One of several pools on one supply; what is left out is the scenario's."""

    name: Text = Field(..., description="namespace/pool, or pool alone.")
    growth: Factor = Field(1.0, description="So many times the requests, on top of the scenario's growth.")
    profile: Text | None = Field(None, description="Hardware profile, model/accelerator/tpN.")
    layout: Literal["colocated", "disaggregated"] | None = Field(None, description="How it serves.")
    minimum: Replicas | None = Field(None, description="Fewest replicas of a role.")
    maximum: SomeReplicas | None = Field(None, description="Most replicas of a role.")
    initial: Replicas | None = Field(None, description="Ready at the start.")
    slo: SloChoice | None = Field(None, description="What counts as served well.")


class PoolHistory(PoolShare):
    """A pool of a study, with its load."""

    history: History = Field(..., description="The load.")


class Scenario(Door):
    """One question to the simulated world. Everything has a default: a scenario names what differs."""

    name: Text = Field("base", description="As results say it.")
    growth: Factor = Field(1.0, description="So many times the requests.")
    input_growth: Factor = Field(1.0, description="So many times the prompt tokens of each request.")
    output_growth: Factor = Field(1.0, description="So many times the output tokens of each request.")
    profile: Text = Field("llama-3.1-8b/a100-80gb/tp1", description="Hardware profile, model/accelerator/tpN.")
    profiles: Text | None = Field(None, description="Folder with further hardware profiles (YAML).")
    layout: Literal["colocated", "disaggregated"] = Field("colocated", description="How pools serve.")
    minimum: Replicas = Field(1, description="Fewest replicas of a role.")
    maximum: SomeReplicas = Field(64, description="Most replicas of a role.")
    initial: Replicas | None = Field(None, description="Ready at the start; none: what the first minutes need.")
    policy: PolicyChoice = Field(default_factory=PolicyChoice, description="Who decides.")
    slo: SloChoice = Field(default_factory=SloChoice, description="What counts as served well.")
    supply: SupplyChoice = Field(default_factory=SupplyChoice, description="GPUs and start-up.")
    faults: tuple[FaultChoice, ...] = Field((), description="What goes wrong.")
    interval_s: Seconds | None = Field(
        None,
        description="Between decisions; none: the policy's own; for rates over hours, ours decides when there is news, "
        "and others every 60 to 200 s over more than two days.",
    )
    fidelity: Literal["fluid", "requests"] = Field("fluid", description="Rates (seconds a week), or every request.")
    namespace: Namespace = Field("default", description="Of pools that have none.")
    pools: tuple[PoolShare, ...] = Field(
        (), description="Pools that share the supply and are played together; none: each pool by itself."
    )


class RandomSearch(Door):
    """Scenarios drawn at random: every range independently, log-uniformly where it does not touch zero."""

    count: Annotated[int, Field(ge=1, le=MOST_SCENARIOS)] = Field(..., description="How many.")
    seed: Annotated[int, Field(ge=0)] = Field(0, description="Same seed, same scenarios.")
    ranges: dict[str, tuple[float, float]] = Field(default_factory=dict, description="Dotted key: [least, most].")
    choices: dict[str, tuple[Any, ...]] = Field(default_factory=dict, description="Dotted key: list of values.")

    @model_validator(mode="after")
    def _ordered(self) -> RandomSearch:
        for key, (least, most) in self.ranges.items():
            if not (math.isfinite(least) and math.isfinite(most) and least <= most):
                raise ValueError(f"ranges.{key} is [{least:g}, {most:g}]; give [least, most]")
        if not self.ranges and not self.choices:
            raise ValueError("give ranges or choices: nothing would differ")
        return self


class Study(Door):
    """A file of scenarios: a load, or several pools with theirs on one supply, what is common, and what differs."""

    history: History | None = Field(None, description="The load.")
    pools: tuple[PoolHistory, ...] = Field((), description="Instead: several pools, each with its load, on one supply.")
    base: Scenario = Field(default_factory=Scenario, description="What all scenarios have in common.")
    scenarios: tuple[dict[str, Any], ...] = Field((), description="What each changes of the base.")
    grid: dict[str, tuple[Any, ...]] = Field(default_factory=dict, description="Dotted key: list of values.")
    random: RandomSearch | None = Field(None, description="Drawn scenarios, instead of a grid.")
    seeds: Annotated[int, Field(ge=1, le=1000)] = Field(1, description="Runs of each, seeds 0, 1, ….")

    @model_validator(mode="after")
    def _expands(self) -> Study:
        if (self.history is None) == (not self.pools):
            raise ValueError("history: give the load, or pools with theirs; one of them")
        names = [pool.name for pool in self.pools]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"pools: two are called {twice[0]!r}; give each a name of its own")
        if self.base.pools or any("pools" in own for own in self.scenarios) or "pools" in self.grid:
            raise ValueError("pools: they are named once, beside base, each with its history")
        if self.random is not None and self.grid:
            raise ValueError("give a grid or random, not both")
        expanded(self)
        return self


def expanded(study: Study) -> tuple[Scenario, ...]:
    """Every scenario of a study, in the file's order, the last key of a grid fastest.

    Raises:
        ValueError: (as pydantic's) an unknown key or a value that cannot be, with its dotted place; two of one name;
            more than MOST_SCENARIOS.
    """
    listed = study.scenarios or ({},)
    shares = tuple(
        PoolShare.model_validate(pool.model_dump(mode="json", exclude={"history"}, exclude_none=True))
        for pool in study.pools
    )
    base = study.base.model_copy(update={"pools": shares})
    each = study.random.count if study.random else math.prod(len(values) for values in study.grid.values())
    if len(listed) * each > MOST_SCENARIOS:
        raise ValueError(f"{len(listed) * each:,} scenarios; at most {MOST_SCENARIOS:,}")
    return _named_apart(
        [_one(base, own, changes, _varied(study.grid)) for own in listed for changes in _changes(study)]
    )


def grid(base: Scenario, values: Mapping[str, Sequence[Any]]) -> tuple[Scenario, ...]:
    """Every combination of values (by dotted key, the last fastest) over a base, named by what differs.

    Raises:
        ValueError: as `expanded`.
    """
    keys = list(values)
    combined = (dict(zip(keys, one, strict=True)) for one in itertools.product(*values.values()))
    return _named_apart([_one(base, {}, changes, _varied(values)) for changes in combined])


def _varied(values: Mapping[str, Sequence[Any]]) -> frozenset[str] | None:
    """Keys with more than one value; None where there is no such key."""
    return frozenset(key for key, options in values.items() if len(options) > 1) or None


def _told(key: str, value: Any) -> str:
    """A choice as names say it: a policy by its name alone, other keys without the way to them."""
    return str(value) if key == "policy.name" else f"{key.rpartition('.')[2]}={_short(value)}"


def _named_apart(found: list[Scenario]) -> tuple[Scenario, ...]:
    seen: set[str] = set()
    for scenario in found:
        if scenario.name in seen:
            raise ValueError(f"scenarios: two are called {scenario.name!r}; give each a name of its own")
        seen.add(scenario.name)
    return tuple(found)


def _one(
    base: Scenario, own: dict[str, Any], changes: dict[str, Any], varied: frozenset[str] | None = None
) -> Scenario:
    """The base with its own keys and a grid's; its name says the keys that vary (None: all of them)."""
    plain = _laid(base.model_dump(mode="json"), own)
    for key, value in changes.items():
        _set(plain, key, value)
    said = ", ".join(_told(key, value) for key, value in changes.items() if varied is None or key in varied)
    if said:
        plain["name"] = said if plain["name"] == "base" else f"{plain['name']}, {said}"
    try:
        return Scenario.model_validate(plain)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        told = "unknown key" if first["type"] == "extra_forbidden" else f"{first['input']!r}: {first['msg']}"
        raise ValueError(f"scenario {plain.get('name')!r}: {place}: {told}") from None


def _laid(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        both = isinstance(under, dict) and isinstance(value, dict) and key != "knobs"
        merged[key] = _laid(under, value) if both and isinstance(under, dict) else value
    return merged


def _set(plain: dict[str, Any], dotted: str, value: Any) -> None:
    *above, last = dotted.split(".")
    place: Any = plain
    for part in above:
        place = place.get(part) if isinstance(place, dict) else None
        if not isinstance(place, dict):
            message = f"{dotted}: there is no {part!r} that holds keys; use names such as growth or supply.gpus"
            raise ValueError(message)  # noqa: TRY004 - the key is wrong, not a type
    place[last] = value


def _changes(study: Study) -> Iterator[dict[str, Any]]:
    if study.random is None:
        for values in itertools.product(*study.grid.values()):
            yield dict(zip(study.grid, values, strict=True))
        return
    random = np.random.default_rng(study.random.seed)
    for _ in range(study.random.count):
        drawn: dict[str, Any] = {}
        for key, (least, most) in study.random.ranges.items():
            share = float(random.random())
            value = (
                math.exp(math.log(least) + share * math.log(most / least))
                if least > 0
                else share * (most - least) + least
            )
            drawn[key] = round(value) if _whole(key) else float(f"{value:.4g}")
        for key, options in study.random.choices.items():
            drawn[key] = options[int(random.integers(len(options)))]
        yield drawn


def _whole(dotted: str) -> bool:
    """Whether a key of a scenario holds whole numbers."""
    model: Any = Scenario
    for part in dotted.split("."):
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:
            return False
        model = field.annotation
    return "int" in str(model) and "float" not in str(model)


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)

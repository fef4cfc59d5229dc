"""The door for profile files: what a YAML file may say, and the sentence for everything it may not.

Units: seconds, tokens, bytes, GB = 1e9 bytes. Each field's description says what would be right; `read` turns every
problem of a file into one sentence with file, path, value and that description.
"""

from __future__ import annotations

import reprlib
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from autoscaler.errors import BadSettings

if TYPE_CHECKING:
    from collections.abc import Hashable

Dtype = Literal["bfloat16", "float16", "float32", "fp8", "int8", "int4"]
Evidence = Literal["measured", "simulated", "kernel-derived", "inferred"]


def _not_a_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("true/false is not a number")  # noqa: TRY004 - pydantic reports ValueError as a problem
    return value


def _number(below: float, unit: str) -> Any:
    return Field(gt=0, le=below, allow_inf_nan=False, description=unit)


Number = Annotated[float, BeforeValidator(_not_a_bool)]
Count = Annotated[int, BeforeValidator(_not_a_bool)]
Text = Annotated[str, Field(min_length=1, max_length=2000)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", description="lower case letters, digits, . _ -")]


class _Door(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ArchitectureFile(_Door):
    """What of a model's architecture decides its KV cache."""

    layers: Annotated[Count, _number(10_000, "transformer layers that keep KV")]
    kv_heads: Annotated[Count, _number(10_000, "key/value heads")]
    head_dim: Annotated[Count, _number(100_000, "values per head")]
    parameters_billion: Annotated[Number, _number(100_000, "parameters in 1e9")]


class EntryFile(_Door):
    """One (accelerator, tensor_parallel, dtype) of a model's file."""

    accelerator: Name
    tensor_parallel: Annotated[Count, _number(1024, "GPUs that share each layer")]
    dtype: Annotated[Dtype, Field(description="of the weights")] = "bfloat16"
    gpus: Annotated[Count, _number(8192, "GPUs per replica, at least tensor_parallel")]
    step_base_s: Annotated[Number, _number(10, "seconds per iteration, such as 0.0067 (not ms)")]
    per_prefill_token_s: Annotated[Number, _number(10, "seconds per prompt token, such as 2.1e-05 (not ms)")]
    prefill_request_s: Annotated[Number, _number(60, "seconds per request, such as 0.013 (not ms)")]
    per_running_s: Annotated[Number, _number(1, "seconds per running request, such as 2e-05 (not ms)")]
    per_resident_token_s: Annotated[Number, _number(0.001, "seconds per resident token, such as 6e-08 (not ms)")]
    kv_bytes_per_token: Annotated[Count, _number(1e9, "bytes per token over all GPUs of the replica")]
    kv_capacity_tokens: Annotated[Count, _number(1e10, "tokens per replica")]
    max_running: Annotated[Count, _number(1e6, "requests (`max_num_seqs`)")]
    max_batched_tokens: Annotated[Count, _number(1e7, "tokens (`max_num_batched_tokens`)")]
    weights_gb: Annotated[Number, _number(1e5, "GB (1e9 bytes) over all GPUs of the replica")]
    evidence: Annotated[Evidence, Field(description="where the figures come from")]
    source: Text
    relative_uncertainty: Annotated[Number, _number(3, "one standard deviation over the value, such as 0.3")]

    @model_validator(mode="after")
    def _whole(self) -> EntryFile:
        if self.gpus < self.tensor_parallel:
            raise ValueError(f"gpus {self.gpus} must be at least tensor_parallel {self.tensor_parallel}")
        return self


class ModelFile(_Door):
    """A model's file: who it is, its architecture, its entries."""

    model: Name
    aliases: tuple[Text, ...] = ()
    architecture: ArchitectureFile
    profiles: Annotated[tuple[EntryFile, ...], Field(description="a list of at least one profile")]

    @model_validator(mode="after")
    def _kv_by_formula(self) -> ModelFile:
        if not self.profiles:
            raise ValueError("profiles: [] is empty; expected a list of at least one profile")
        shape = self.architecture
        values = 2 * shape.layers * shape.kv_heads * shape.head_dim
        for entry in self.profiles:
            if entry.kv_bytes_per_token not in (values // 2, values, 2 * values, 4 * values):
                raise ValueError(
                    f"kv_bytes_per_token {entry.kv_bytes_per_token} ({entry.accelerator} tp{entry.tensor_parallel}) "
                    f"must be 2 * layers * kv_heads * head_dim * bytes: {2 * values} (16 bit) or {values} (8 bit)"
                )
        keys = [(entry.accelerator, entry.tensor_parallel, entry.dtype) for entry in self.profiles]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise ValueError(f"stated twice: {', '.join(f'{a} tp{tp} {dtype}' for a, tp, dtype in twice)}")
        return self


class AcceleratorFile(_Door):
    """One accelerator of `accelerators.yaml`."""

    memory_bytes: Annotated[Number, _number(1e14, "bytes the driver shows, such as 8.55e+10")]
    bandwidth_gb_per_s: Annotated[Number, _number(1e6, "GB/s, such as 3350")]
    bf16_tflops: Annotated[Number, _number(1e6, "dense TFLOPS, such as 989")]
    fp8_tflops: Annotated[Number, _number(1e6, "dense TFLOPS")] | None = None
    price_per_gpu_hour: Annotated[Number, _number(1e4, "dollars per GPU-hour, illustrative")]
    aliases: tuple[Text, ...] = ()
    source: Text


class LeadTimeFile(_Door):
    """One lead time: median and 90th percentile."""

    p50_s: Annotated[Number, _number(1e6, "seconds")]
    p90_s: Annotated[Number, _number(1e6, "seconds, at least p50_s")]

    evidence: Annotated[Evidence, Field(description="where the figures come from")]
    source: Text

    @model_validator(mode="after")
    def _ordered(self) -> LeadTimeFile:
        if self.p90_s < self.p50_s:
            raise ValueError(f"p90_s {self.p90_s} must be at least p50_s {self.p50_s}")
        return self


class BandwidthFile(_Door):
    """How fast weights arrive from one kind of source."""

    gb_per_s: Annotated[Number, _number(1e5, "GB/s")]
    shared_by: Annotated[Literal["gpu", "node"], Field(description="whose bandwidth it is")]
    source: Text


class AcceleratorsFile(_Door):
    """`accelerators.yaml`."""

    accelerators: dict[Name, AcceleratorFile]


class LeadTimesFile(_Door):
    """`lead-times.yaml`."""

    tiers: dict[Name, LeadTimeFile] = Field(default_factory=dict)
    steps: dict[Name, LeadTimeFile] = Field(default_factory=dict)
    weight_bandwidth: dict[Name, BandwidthFile] = Field(default_factory=dict)


Door = TypeVar("Door", ModelFile, AcceleratorsFile, LeadTimesFile)
SHOWN = 80
"""Characters of a wrong value worth repeating."""
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = SHOWN
# A few aliases of aliases in YAML unfold to gigabytes; reprlib looks at a few items of a few levels only.


class _NoDuplicates(yaml.SafeLoader):
    """A key stated twice is a mistake, where plain YAML silently takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"{key.value!r} is stated twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def parse(text: str, file: str) -> Any:
    """The YAML document. Raises BadSettings with file, line and column when it is none."""
    try:
        return yaml.load(text, Loader=_NoDuplicates)  # noqa: S506 - a SafeLoader with one more check
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BadSettings((f"{file}: not YAML: {' '.join(str(error).split())}",)) from error


def checked(kind: type[Door], document: Any, file: str) -> Door:
    """The document as `kind`. Raises BadSettings with one sentence per problem."""
    if not isinstance(document, dict):
        raise BadSettings((f"{file}: {_shown(document)} where a mapping with {', '.join(kind.model_fields)} belongs",))
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        raise BadSettings(tuple(_sentence(kind, file, dict(problem)) for problem in error.errors())) from error


def _shown(value: Any) -> str:
    text = _SHORT.repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _sentence(kind: type[BaseModel], file: str, problem: dict[str, Any]) -> str:
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"]).lstrip(".")
    right, siblings = _expected(kind, problem["loc"])
    said = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":
        return f"{file}: {where}: is missing" + (f"; expected {right}" if right else "")
    if problem["type"] == "extra_forbidden":
        return f"{file}: {where}: {_shown(problem['input'])}: no such key; known are {', '.join(siblings)}"
    if problem["type"] == "value_error" and not right:
        return f"{file}: {where}: {said}" if where else f"{file}: {said}"
    return f"{file}: {where}: {_shown(problem['input'])}: {said}" + (f"; expected {right}" if right else "")


def _expected(kind: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[str, list[str]]:
    """The description of the field at `loc`, and its siblings' names."""
    model: type[BaseModel] | None = kind
    right, siblings = "", list(kind.model_fields)
    for part in loc:
        if model is None or not isinstance(part, str) or part not in model.model_fields:
            continue
        siblings = list(model.model_fields)
        info = model.model_fields[part]
        right = info.description or ""
        model = next(iter(_models(info.annotation)), None)
        if model is not None:
            siblings = list(model.model_fields)
    return right, siblings


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The pydantic models named anywhere in a type such as `tuple[EntryFile, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _models(part)]

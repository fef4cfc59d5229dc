"""Hardware profiles: what a replica of a model on an accelerator can do before anything has been learned of it.

A profile seeds the velocities (velocity.py, learning.py) with the step model's coefficients, the KV capacity and an
honest uncertainty; live measurements soon outweigh it. The tables are package data (`shipped/profiles`, one YAML file
per model, `accelerators.yaml`, `lead-times.yaml`); a directory of one's own in the same format merges over them:

    book = load_profiles(None)
    book.find("meta-llama/Llama-3.1-8B-Instruct", "NVIDIA-H100-80GB-HBM3", 1).name   # llama-3.1-8b/h100-80gb/tp1

Formulas: KV bytes per token = 2 * layers * kv_heads * head_dim * bytes (2 for keys and values); KV capacity =
(0.9 * memory * GPUs - weights - 1.8 GB * GPUs) / that, 0.9 vLLM's default share of memory and 1.8 GB what it keeps for
activations (recorded vLLM servers: 0.9-2.7 GB per GPU). Units: seconds, tokens, bytes, GB = 1e9 bytes.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, field
from importlib import resources
from statistics import NormalDist
from typing import TYPE_CHECKING

from autoscaler.errors import BadSettings
from autoscaler.profile_schema import AcceleratorsFile, LeadTimesFile, ModelFile, checked, parse
from autoscaler.velocity import StepModel

if TYPE_CHECKING:
    from collections.abc import Mapping
    from importlib.resources.abc import Traversable
    from pathlib import Path

MEMORY_SHARE = 0.9
"""vLLM's default `gpu_memory_utilization`."""
ACTIVATION_BYTES = 1.8e9
"""Kept per GPU for activations and graphs: 7 recorded servers lie at 0.9-2.7 GB per GPU, median 1.8."""
Z90 = NormalDist().inv_cdf(0.9)
SUFFIXES = (".yaml", ".yml")
UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Profile:
    """What one replica can do, as far as is known before looking. Fields as in the files; units in their names.

    `prefill_request_s` is the part of an idle replica's TTFT that does not grow with the prompt (front end included):
    a latency, not a cost of throughput. `relative_uncertainty` is one standard deviation of each coefficient.
    """

    model: str
    accelerator: str
    tensor_parallel: int
    dtype: str
    gpus: int
    step_base_s: float
    per_prefill_token_s: float
    prefill_request_s: float
    per_running_s: float
    per_resident_token_s: float
    kv_bytes_per_token: int
    kv_capacity_tokens: int
    max_running: int
    max_batched_tokens: int
    weights_gb: float
    evidence: str
    source: str
    relative_uncertainty: float

    @property
    def name(self) -> str:
        """`model/accelerator/tpN`, with `/dtype` behind when the weights are not bfloat16; `unknown` for that one."""
        if self.model == UNKNOWN:
            return UNKNOWN
        tail = "" if self.dtype == "bfloat16" else f"/{self.dtype}"
        return f"{self.model}/{self.accelerator}/tp{self.tensor_parallel}{tail}"

    @property
    def step(self) -> StepModel:
        """The iteration-time model, for velocity and as the prior of learning."""
        return StepModel(self.step_base_s, self.per_prefill_token_s, self.per_running_s, self.per_resident_token_s)

    def itl_s(self, running: float, resident_tokens: float) -> float:
        """Inter-token latency, s, of a batch with no prefill beside it: a + c * running + d * resident tokens."""
        return self.step_base_s + self.per_running_s * running + self.per_resident_token_s * resident_tokens

    def prefill_s(self, tokens: float) -> float:
        """TTFT, s, of one uncached prompt on an idle replica: B + A * tokens."""
        return self.prefill_request_s + self.per_prefill_token_s * tokens


@dataclass(frozen=True, slots=True)
class Accelerator:
    """A GPU type: bytes of memory, GB/s, dense TFLOPS (fp8 None where it has none), illustrative dollars per hour."""

    name: str
    memory_bytes: float
    bandwidth_gb_per_s: float
    bf16_tflops: float
    fp8_tflops: float | None
    price_per_gpu_hour: float
    source: str


@dataclass(frozen=True, slots=True)
class LeadTime:
    """How long something takes, s: log-normal with median `p50_s` and 90th percentile `p90_s`.

    mu = ln p50, sigma = ln(p90 / p50) / 1.2816 (the standard normal's 90 % point).
    """

    p50_s: float
    p90_s: float
    evidence: str = "inferred"
    source: str = ""

    @property
    def mu(self) -> float:
        """Mean of the logarithm."""
        return math.log(self.p50_s)

    @property
    def sigma(self) -> float:
        """Standard deviation of the logarithm."""
        return math.log(self.p90_s / self.p50_s) / Z90

    def quantile(self, share: float) -> float:
        """Seconds within which a `share` (0 < share < 1) of cases is done."""
        return math.exp(self.mu + self.sigma * NormalDist().inv_cdf(share))

    def then(self, following: LeadTime) -> LeadTime:
        """This and then the other, taken as independent: the log-normal with the sum's mean and variance (Fenton 1960).

        Medians do not add up: 45 (p90 150) and then 115 (p90 200) is 174 (p90 325), not 160 (350). Fenton's lower tail
        is too low for very unlike widths, so neither figure falls below that of one part alone.
        """
        mean = variance = 0.0
        for part in (self, following):
            part_mean = math.exp(part.mu + part.sigma**2 / 2)
            mean += part_mean
            variance += part_mean**2 * math.expm1(part.sigma**2)
        sigma = math.sqrt(math.log1p(variance / mean**2))
        median = mean / math.exp(sigma**2 / 2)
        source = "; then ".join(part.source for part in (self, following) if part.source)
        p50 = max(median, self.p50_s, following.p50_s)
        p90 = max(median * math.exp(sigma * Z90), self.p90_s, following.p90_s)
        return LeadTime(p50, p90, "inferred", source)


@dataclass(frozen=True, slots=True)
class WeightSource:
    """Where weights come from: GB/s, of each GPU or of the whole node (`shared_by`)."""

    gb_per_s: float
    shared_by: str
    source: str


@dataclass(frozen=True, slots=True)
class ProfileBook:
    """All profiles by name, accelerators, lead times; aliases (lower case) resolve what clusters call things."""

    profiles: Mapping[str, Profile]
    accelerators: Mapping[str, Accelerator]
    tiers: Mapping[str, LeadTime]
    steps: Mapping[str, LeadTime]
    weight_sources: Mapping[str, WeightSource]
    aliases: Mapping[str, str] = field(default_factory=dict)

    def canonical(self, text: str) -> str:
        """A model's or accelerator's name in this book: its alias resolved, else its own text in lower case."""
        wanted = text.strip().lower()
        return self.aliases.get(wanted, wanted)

    def find(self, model: str, accelerator: str, tp: int, dtype: str = "bfloat16") -> Profile:
        """The profile of a model on `tp` GPUs of an accelerator type.

        Raises BadSettings, which names the nearest profiles there are, when there is none.
        """
        model, accelerator = self.canonical(model), self.canonical(accelerator)
        tail = "" if dtype == "bfloat16" else f"/{dtype}"
        wanted = f"{model}/{accelerator}/tp{tp}{tail}"
        found = self.profiles.get(wanted)
        if found is not None:
            return found
        near = ", ".join(self._nearest(wanted, model, accelerator)) or "none"
        problem = (
            f"no profile {wanted}; nearest: {near}. Name one of these, state the figures in a file of your own, "
            f"or use `{UNKNOWN}` to start from almost nothing and learn"
        )
        raise BadSettings((problem,))

    def _nearest(self, wanted: str, model: str, accelerator: str, most: int = 3) -> list[str]:
        def distance(profile: Profile) -> tuple[bool, bool, float, str]:
            alike = difflib.SequenceMatcher(None, wanted, profile.name).ratio()
            return profile.model != model, profile.accelerator != accelerator, -alike, profile.name

        return [p.name for p in sorted(self.profiles.values(), key=distance) if p.name != UNKNOWN][:most]


UNKNOWN_PROFILE = Profile(
    model=UNKNOWN,
    accelerator=UNKNOWN,
    tensor_parallel=1,
    dtype="bfloat16",
    gpus=1,
    step_base_s=0.02,
    per_prefill_token_s=1e-4,
    prefill_request_s=0.03,
    per_running_s=1e-4,
    per_resident_token_s=2e-7,
    kv_bytes_per_token=131_072,
    kv_capacity_tokens=100_000,
    max_running=256,
    max_batched_tokens=2048,
    weights_gb=16.0,
    evidence="inferred",
    source="the middle, on a logarithmic scale, of what is shipped: a start for learning, not a figure to plan with",
    relative_uncertainty=1.5,
)
"""For a model or accelerator nobody has measured."""


def load_profiles(directory: Path | None = None) -> ProfileBook:
    """The shipped profiles, with those of `directory` (the same format) merged over them entry by entry.

    A file of one's own replaces the entries it states (same model, accelerator, tensor_parallel, dtype) and adds the
    rest. Raises BadSettings with one sentence per problem of every file, or when `directory` is none.
    """
    book = _Pages()
    book.read(resources.files("autoscaler") / "shipped" / "profiles")
    if directory is not None:
        if not directory.is_dir():
            raise BadSettings((f"profiles: {directory} is not a directory; expected one with *.yaml profile files",))
        book.read(directory)
    if book.problems:
        raise BadSettings(tuple(book.problems))
    return ProfileBook(book.profiles, book.accelerators, book.tiers, book.steps, book.weights, book.aliases)


@dataclass(slots=True)
class _Pages:
    """The book while it is being read."""

    profiles: dict[str, Profile] = field(default_factory=lambda: {UNKNOWN: UNKNOWN_PROFILE})
    accelerators: dict[str, Accelerator] = field(default_factory=dict)
    tiers: dict[str, LeadTime] = field(default_factory=dict)
    steps: dict[str, LeadTime] = field(default_factory=dict)
    weights: dict[str, WeightSource] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def read(self, directory: Traversable) -> None:
        files = sorted((f for f in directory.iterdir() if f.name.endswith(SUFFIXES)), key=lambda f: f.name)
        for file in files:
            try:
                self._file(file)
            except BadSettings as error:
                self.problems.extend(error.problems)
            except (OSError, UnicodeDecodeError) as error:
                self.problems.append(f"{file}: cannot be read: {error}; expected a UTF-8 YAML file")

    def _file(self, file: Traversable) -> None:
        document = parse(file.read_text(encoding="utf-8"), str(file))
        stem = file.name.rsplit(".", 1)[0]
        if stem == "accelerators":
            self._accelerators(checked(AcceleratorsFile, document, str(file)))
        elif stem == "lead-times":
            self._lead_times(checked(LeadTimesFile, document, str(file)))
        else:
            self._model(checked(ModelFile, document, str(file)), str(file))

    def _accelerators(self, page: AcceleratorsFile) -> None:
        for name, entry in page.accelerators.items():
            self.accelerators[name] = Accelerator(name=name, **entry.model_dump(exclude={"aliases"}))
            self.aliases.update({alias.lower(): name for alias in entry.aliases})

    def _lead_times(self, page: LeadTimesFile) -> None:
        for known, stated in ((self.tiers, page.tiers), (self.steps, page.steps)):
            for name, entry in stated.items():
                known[name] = LeadTime(**entry.model_dump())
        for name, rate in page.weight_bandwidth.items():
            self.weights[name] = WeightSource(**rate.model_dump())

    def _model(self, page: ModelFile, file: str) -> None:
        if page.model == UNKNOWN:
            self.problems.append(f"{file}: model: {UNKNOWN!r} is the built-in fallback; name the model")
            return
        self.aliases.update({alias.lower(): page.model for alias in page.aliases})
        for entry in page.profiles:
            profile = Profile(model=page.model, **entry.model_dump())
            self.profiles[profile.name] = profile

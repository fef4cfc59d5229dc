"""The scoreboard in README: every policy as shipped and tuned, on the visible traces, against the oracle, as Markdown.

    python bench/scoreboard.py [--quick [--tune] [--curve]] [--cases NAME,…] [--policies NAME,…] [--seeds N] [--out F]

Each trace is cut in three. On its first third every policy's small grid (`registry.grid`) is tried with seed 0 and its
best setting kept: the cheapest that serves the wanted share, else the one that serves most. The other two thirds are
measured, with the defaults and with that setting, over all seeds. The oracle's bound is taken at each row's own
attainment, so `x oracle` is what a row pays for not knowing the future.

`--curve` measures ours with every setting of its grid, and says for each rival what ours costs where it serves as many
or more: the setting is picked knowing the result, as its user would pick it after a replay of his own load.

Finished runs are kept in `--cache` under a hash of the job and of the code, so that an interrupted board goes on where
it was; `--stale` accepts runs of other code. BurstGPT's published aggregates are left out: hourly bins hide all that
autoscalers differ in, and its per-minute file counts no requests.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import time
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scoreboard_table import SET, Row, Shown, case_text, matched_text, standing_text, told

from autoscaler.policies.registry import OWN, POLICIES, grid
from autoscaler.scoreboard import Job, TraceSpec
from autoscaler.scoreboard_bounds import bound
from autoscaler.scoreboard_workers import run_jobs
from autoscaler.simulator.setup import Layout, Setup

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
TRAIN, MEASURE = (0.0, 1 / 3), (1 / 3, 1.0)
CODE = ("autoscaler", "forecasting", "optimizer")
KEPT = ("slo_attainment", "gpu_hours", "ttft_p99_s", "tpot_p99_s", "direction_changes", "gpu_utilisation", "requests")
"""What is kept of a run."""


@dataclass(frozen=True, slots=True)
class Case:
    """A trace with its scale and layout. `quick`: the scale of a board of minutes; empty: not on it."""

    name: str
    source: str
    format: str
    scale: str
    quick: str = ""
    layout: Layout = Layout.COLOCATED
    fluid: bool = False
    profile: str = "llama-3.1-8b/a100-80gb/tp1"

    def spec(self, share: tuple[float, float], *, quick: bool) -> TraceSpec:
        """The trace, or part of it."""
        return TraceSpec(str(DATA / self.source), self.format, self.quick if quick else self.scale, share=share)

    @property
    def setup(self) -> Setup:
        """The world around it."""
        return Setup(self.profile, layout=self.layout)


AZURE = "azure_llm_2023/AzureLLMInferenceTrace_"
CASES = (
    Case("conv", f"{AZURE}conv.csv", "azure", "superpose:10", "superpose:4"),
    Case("conv-pd", f"{AZURE}conv.csv", "azure", "superpose:10", "superpose:4", Layout.DISAGGREGATED),
    Case("code", f"{AZURE}code.csv", "azure", "superpose:10", "superpose:5"),
    Case("code-pd", f"{AZURE}code.csv", "azure", "superpose:10", "superpose:5", Layout.DISAGGREGATED),
    Case("mooncake", "mooncake/synthetic_trace.jsonl.gz", "mooncake", "superpose:4"),
    Case("servegen", "servegen/m-large_agg_10min.csv.gz", "servegen", "thin:0.5", fluid=True),
    Case("week", "azure_llm_2024_week/code_10min_reconstructed.csv", "demand", "superpose:3", "", fluid=True),
)


@cache
def code_hash() -> str:
    """Of everything a run depends on but its job."""
    seen = hashlib.sha256(f"{platform.python_version()} {np.__version__}".encode())
    for folder in CODE:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in {".py", ".yaml"}:
                seen.update(path.read_bytes())
    return seen.hexdigest()[:16]


class Runs:
    """Runs done and kept: one JSON line each."""

    def __init__(self, path: Path, workers: int, *, stale: bool) -> None:
        self._path, self._workers, self._stale = path, workers, stale
        self._known: dict[str, dict[str, Any]] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    one = json.loads(line)
                except ValueError:
                    continue  # cut short when the last board was interrupted
                if stale or one["code"] == code_hash():
                    self._known[one["job"]] = one["result"]
        path.parent.mkdir(parents=True, exist_ok=True)

    def of(self, jobs: Sequence[Job]) -> list[dict[str, Any]]:
        """Results in the jobs' order; those not known yet are run, a few at a time, and kept at once."""
        missing = [job for job in dict.fromkeys(map(_Key, jobs)) if job.text not in self._known]
        batch = 1 if self._workers == 1 else 4 * self._workers
        for start in range(0, len(missing), batch):
            part = missing[start : start + batch]
            results = run_jobs([key.job for key in part], self._workers)
            with self._path.open("a", encoding="utf-8") as file:
                for key, result in zip(part, results, strict=True):
                    plain = result.as_json()
                    kept = {name: plain[name] for name in KEPT}
                    self._known[key.text] = kept
                    file.write(json.dumps({"job": key.text, "code": code_hash(), "result": kept}) + "\n")
            print(f"  {min(start + batch, len(missing))} of {len(missing)} runs", flush=True)
        return [self._known[_Key(job).text] for job in jobs]


class _Key:
    """A job with the text it is known by."""

    __slots__ = ("job", "text")

    def __init__(self, job: Job) -> None:
        self.job = job
        plain = asdict(replace(job, knobs=dict(sorted(job.knobs.items()))))
        plain["trace"]["source"] = Path(job.trace.source).name
        self.text = json.dumps(plain, sort_keys=True)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)


def best(tried: Sequence[tuple[Mapping[str, str], dict[str, Any]]], wanted: float) -> Mapping[str, str]:
    """The cheapest setting that serves the wanted share, else the one that serves most."""
    enough = [one for one in tried if one[1]["slo_attainment"] >= wanted]
    if enough:
        return min(enough, key=lambda one: one[1]["gpu_hours"])[0]
    return max(tried, key=lambda one: one[1]["slo_attainment"])[0]


def tuned(case: Case, policy: str, runs: Runs, *, quick: bool) -> Mapping[str, str]:
    """The setting of a policy's grid that did best on the training slice, seed 0."""
    settings = grid(policy)
    if len(settings) == 1:
        return settings[0]
    spec = case.spec(TRAIN, quick=quick)
    results = runs.of([Job(spec, policy, 0, case.setup, one, case.fluid) for one in settings])
    return best(list(zip(settings, results, strict=True)), case.setup.slo.attainment)


def board(
    case: Case, policies: Sequence[str], seeds: int, runs: Runs, *, quick: bool, tune: bool, curve: bool
) -> list[Row]:
    """All rows of a case."""
    spec, setup = case.spec(MEASURE, quick=quick), case.setup
    load = spec.load(0)
    wanted: list[tuple[str, str, Mapping[str, str]]] = []
    for policy in policies:
        wanted.append((policy, "shipped", {}))
        if tune and (knobs := tuned(case, policy, runs, quick=quick)):
            wanted.append((policy, "tuned", knobs))
    if curve:
        wanted += [(OWN, SET, knobs) for knobs in grid(OWN)]
    jobs = [Job(spec, name, seed, setup, knobs, case.fluid) for name, _, knobs in wanted for seed in range(seeds)]
    results = runs.of(jobs)
    rows = []
    for index, (name, flavour, knobs) in enumerate(wanted):
        group = results[index * seeds : (index + 1) * seeds]
        share = float(np.mean([one["slo_attainment"] for one in group]))
        rows.append(Row(name, flavour, dict(knobs), group, bound(load, setup, share).gpu_hours))
    return rows


def shown(case: Case, seeds: int, *, quick: bool) -> Shown:
    """What a table says of its case."""
    load = case.spec(MEASURE, quick=quick).load(0)
    scale = (case.quick if quick else case.scale) or "as it is"
    return Shown(case.name, load.name, scale, case.layout.value, case.profile, load.duration, seeds, case.fluid)


def machine() -> str:
    """Versions and machine, in words."""
    versions = f"Python {platform.python_version()}, numpy {np.__version__}, code {code_hash()}"
    return f"{versions}; {platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}"


def main() -> None:
    """Run what is missing, print the tables, write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller scales, 2 seeds, no tuning: minutes")
    parser.add_argument("--tune", action="store_true", help="tune with --quick as well")
    parser.add_argument("--curve", action="store_true", help="ours in all settings, at each rival's attainment")
    parser.add_argument("--cases", default="", help="names with commas; all: " + ", ".join(one.name for one in CASES))
    parser.add_argument("--policies", default="", help="names with commas (ours is always among them)")
    parser.add_argument("--seeds", type=int, default=0, help="default 5, or 2 with --quick")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--cache", type=Path, default=Path(".tidegate/scoreboard.jsonl"))
    parser.add_argument("--stale", action="store_true", help="accept kept runs of other code")
    parser.add_argument("--out", type=Path, help="write Markdown there")
    given = parser.parse_args()
    seeds = given.seeds or (2 if given.quick else 5)
    cases = _named(parser, given.cases, CASES, quick=given.quick)
    names = tuple(POLICIES) if not given.policies else tuple(dict.fromkeys([OWN, *given.policies.split(",")]))
    if unknown := [name for name in names if name not in POLICIES]:
        parser.error(f"no policy {', '.join(unknown)}; there are: {', '.join(POLICIES)}")
    runs, begun, parts = Runs(given.cache, max(1, given.workers), stale=given.stale), time.monotonic(), [machine()]
    for case in cases:
        print(f"{case.name}: {case.source}", flush=True)
        tune = given.tune or not given.quick
        rows = board(case, names, seeds, runs, quick=given.quick, tune=tune, curve=given.curve)
        about = shown(case, seeds, quick=given.quick)
        parts += [case_text(about, rows), standing_text(rows, OWN)]
        if given.curve:
            parts.append(matched_text(rows, OWN))
    text = told(parts)
    print(text)
    print(f"{time.monotonic() - begun:.0f} s")
    if given.out is not None:
        given.out.write_text(text, encoding="utf-8")


def _named(parser: argparse.ArgumentParser, names: str, cases: Iterable[Case], *, quick: bool) -> list[Case]:
    there = {one.name: one for one in cases if one.quick or not quick}
    listed = [name for name in names.split(",") if name] or list(there)
    if unknown := [name for name in listed if name not in there]:
        parser.error(f"no case {', '.join(unknown)}; there are: {', '.join(there)}")
    chosen = [there[name] for name in listed]
    absent = [one for one in chosen if not (DATA / one.source).exists()]
    for one in absent:
        print(f"{one.name} is left out: there is no {DATA / one.source}")
    return [one for one in chosen if one not in absent]


if __name__ == "__main__":
    main()

"""Many runs: in parallel processes or on a Ray cluster, each kept by its content so that none is ever run twice."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from autoscaler.errors import BadSettings
from autoscaler.whatif.processes import run_in_processes
from autoscaler.whatif.run import as_played, fingerprint, parts_of, runs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from autoscaler.whatif.history import Load, Loads
    from autoscaler.whatif.run import Run
    from autoscaler.whatif.scenario import Scenario

Done = tuple[int, dict[str, Any]]
"""Index of a run among those asked for, and its outcome."""


class Backend(Protocol):
    """Somewhere to run."""

    def __call__(self, asked: Sequence[Run], loads: Mapping[str, Load]) -> Iterator[Done]:
        """Yield each outcome as it comes, in any order, each exactly once."""
        ...


@dataclass(frozen=True, slots=True)
class Kept:
    """A folder of finished outcomes, one JSON file each, named by `Run.key`."""

    folder: Path

    def get(self, key: str) -> dict[str, Any] | None:
        """The outcome, or None where there is none, or half of one that a full disk left."""
        try:
            found = json.loads(self._path(key).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def put(self, key: str, outcome: Mapping[str, Any]) -> None:
        """Keep it: written beside and renamed, so that a reader never sees half of it. Raises BadSettings."""
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(
                "w", dir=path.parent, suffix=".part", delete=False, encoding="utf-8"
            ) as file:
                file.write(text(outcome))
            Path(file.name).replace(path)
        except OSError as error:
            raise BadSettings((f"--cache {self.folder}: cannot be written: {error.strerror or error}",)) from None

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


def usual_folder() -> Path:
    """`tidegate/whatif` in XDG_CACHE_HOME, or in ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tidegate" / "whatif"


def text(outcome: Mapping[str, Any]) -> str:
    """One outcome as canonical JSON: equal outcomes are equal bytes, wherever they were run."""
    return json.dumps(outcome, sort_keys=True, separators=(",", ":"), allow_nan=False)


def swept(
    scenarios: Iterable[Scenario],
    loads: Loads,
    *,
    seeds: int = 1,
    backend: Backend | None = None,
    kept: Kept | None = None,
    done: Callable[[Run, bool], None] | None = None,
) -> list[dict[str, Any]]:
    """Every scenario for every pool and seed.

    Args:
        scenarios: what to run.
        loads: the load by pool.
        seeds: runs of each.
        backend: where; all cores of this machine by default.
        kept: finished outcomes are taken from it, and new ones put there as they come, so that an interrupted sweep
            goes on where it stopped; None: nothing is kept.
        done: told of each run, and whether it was kept already, for a progress bar.

    Returns:
        Outcomes (see `run.outcome`), one per pool, in the order of the runs: the same bytes in whatever order and
        place they ran.

    Raises:
        BadSettings: from a run, naming its scenario. What finished before is kept.
    """
    asked = runs(scenarios, loads, seeds)
    pools = loads.pools
    if all(run.scenario.fidelity == "fluid" for run in asked):
        # Once for all, and before they travel: a week of requests is hundreds of megabytes.
        pools = {pool: as_played(load, "fluid") for pool, load in pools.items()}
    keys = _keys(asked, pools) if kept is not None else []
    found: dict[int, dict[str, Any]] = {}
    for at, key in enumerate(keys):
        outcome = kept.get(key) if kept is not None else None
        if outcome is not None:
            found[at] = outcome
            if done is not None:
                done(asked[at], True)  # noqa: FBT003 - the callback's second word is "already"
    missing = [at for at in range(len(asked)) if at not in found]
    chosen = backend or run_in_processes(os.cpu_count() or 1)
    for index, outcome in chosen([asked[at] for at in missing], pools):
        at = missing[index]
        # Through JSON, so that an outcome just made and one that was kept are the same value.
        found[at] = json.loads(text(outcome))
        if kept is not None:
            kept.put(keys[at], outcome)
        if done is not None:
            done(asked[at], False)  # noqa: FBT003 - likewise
    return [part for at in range(len(asked)) for part in parts_of(found[at])]


def _keys(asked: Sequence[Run], pools: Mapping[str, Load]) -> list[str]:
    """Of every run; each load's fingerprint is taken once."""
    prints: dict[tuple[str, str], str] = {}
    found = []
    for run in asked:
        fidelity = run.scenario.fidelity
        played = run.plays(pools)
        for pool in played:
            if (pool, fidelity) not in prints:
                prints[pool, fidelity] = fingerprint(as_played(pools[pool], fidelity))
        found.append(run.keyed(" ".join(prints[pool, fidelity] for pool in played)))
    return found

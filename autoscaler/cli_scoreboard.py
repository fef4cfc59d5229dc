"""`tidegate simulate` and `tidegate compare`: argument parsing for the simulated world."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from autoscaler.errors import BadSettings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from autoscaler.scoreboard import Job, Row, TraceSpec
    from autoscaler.simulator.result import Result
    from autoscaler.simulator.setup import Setup

FormatOption = Annotated[
    str, typer.Option("--format", help="azure, mooncake, burstgpt, servegen, requests or demand; of trace files.")
]
ScaleOption = Annotated[str, typer.Option(help="superpose:20, compress:20 or thin:0.5; several with commas.")]
ProfileOption = Annotated[str, typer.Option(help="Hardware profile, model/accelerator/tpN.")]
LayoutOption = Annotated[str, typer.Option(help="colocated or disaggregated.")]
MinOption = Annotated[int, typer.Option("--min", min=0, help="Fewest replicas of a role.")]
MaxOption = Annotated[int, typer.Option("--max", min=1, help="Most replicas of a role.")]
GpusOption = Annotated[
    int | None, typer.Option(min=1, help="Prepared GPUs (default: enough for --max).", show_default=False)
]
StartOption = Annotated[
    str | None,
    typer.Option(
        "--start", help="Start-up as MEDIAN,P90 seconds (default: the sum of learned steps).", show_default=False
    ),
]
InputOption = Annotated[
    float | None, typer.Option(help="Tokens per request, for demand without that column.", show_default=False)
]
OutputOption = Annotated[
    float | None, typer.Option(help="Tokens per request, for demand without that column.", show_default=False)
]
FluidOption = Annotated[bool, typer.Option("--fluid", help="Simulate requests as a flow: faster, less exact.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(simulate)
    app.command()(compare)


def _setup(profile: str, layout: str, minimum: int, maximum: int, gpus: int | None, start: str | None) -> Setup:
    from autoscaler.simulator.setup import Layout, Setup, SupplySetup  # noqa: PLC0415 - loads in 1 s

    try:
        kind = Layout(layout)
    except ValueError:
        raise BadSettings((f"--layout {layout!r}: use colocated or disaggregated",)) from None
    supply = SupplySetup(gpus=gpus, start_s=None if start is None else _start(start))
    return Setup(profile=profile, layout=kind, minimum=minimum, maximum=maximum, supply=supply)


def _start(text: str) -> tuple[float, float]:
    try:
        median, most = (float(part) for part in text.split(","))
    except ValueError:
        raise BadSettings((f"--start {text!r}: use two numbers of seconds, such as 115,200",)) from None
    if not 0 < median <= most < math.inf:
        problem = "the median must be above 0 and the 90th percentile, finite, not below it"
        raise BadSettings((f"--start {text}: {problem}, such as 115,200",))
    return median, most


def _knobs(settings: list[str]) -> dict[str, str]:
    found = {}
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise BadSettings((f"--set {text!r}: use knob=value",))
        found[name] = value
    return found


def simulate(
    trace: Annotated[str, typer.Option(help="Trace file, or a generator such as gen:poisson,rate=5,duration=600.")],
    trace_format: FormatOption = "requests",
    scale: ScaleOption = "",
    profile: ProfileOption = "llama-3.1-8b/a100-80gb/tp1",
    policy: Annotated[
        str, typer.Option(help="See `tidegate compare --list`; oracle is the lower bound.")
    ] = "token-dynamics",
    knob: Annotated[
        list[str] | None, typer.Option("--set", help="knob=value of the policy; repeatable.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    layout: LayoutOption = "colocated",
    minimum: MinOption = 1,
    maximum: MaxOption = 64,
    gpus: GpusOption = None,
    start: StartOption = None,
    input_tokens: InputOption = None,
    output_tokens: OutputOption = None,
    fluid: FluidOption = False,
    plot: Annotated[Path | None, typer.Option(help="Write a picture there (.png, .svg).", show_default=False)] = None,
    as_json: JsonOption = False,
) -> None:
    """Run one policy on one trace in the simulated world and score it."""
    from autoscaler import scoreboard  # noqa: PLC0415 - loads in 1 s

    job = scoreboard.Job(
        scoreboard.TraceSpec(trace, trace_format, scale, input_tokens, output_tokens),
        policy,
        seed,
        _setup(profile, layout, minimum, maximum, gpus, start),
        _knobs(knob or []),
        fluid,
    )
    scoreboard.check_files(None, plot)
    result = scoreboard.run_job(job)
    if plot is not None:
        scoreboard.draw([result], plot)
    if as_json:
        typer.echo(json.dumps(result.as_json(), indent=2))
        return
    for name, value in result.as_json().items():
        if name != "config" and value is not None:
            typer.echo(f"{name:26} {value:,.4g}" if isinstance(value, float) else f"{name:26} {value}")


def compare(
    traces: Annotated[
        list[str] | None, typer.Option(help="FILE or FORMAT:FILE or gen:…; repeatable.", show_default=False)
    ] = None,
    policies: Annotated[str, typer.Option(help="Names with commas, or all (the oracle included).")] = "all",
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each, seeds 0, 1, ….")] = 5,
    trace_format: FormatOption = "requests",
    scale: ScaleOption = "",
    profile: ProfileOption = "llama-3.1-8b/a100-80gb/tp1",
    layout: LayoutOption = "colocated",
    minimum: MinOption = 1,
    maximum: MaxOption = 64,
    gpus: GpusOption = None,
    start: StartOption = None,
    input_tokens: InputOption = None,
    output_tokens: OutputOption = None,
    fluid: FluidOption = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes at once (default: all cores).", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write every run there (.csv, .parquet).", show_default=False)
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a picture there (.png, .svg).", show_default=False)] = None,
    list_policies: Annotated[bool, typer.Option("--list", help="Name the policies and their knobs, and end.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run many policies on many traces with several seeds, in parallel, and print the scoreboard."""
    from autoscaler import scoreboard  # noqa: PLC0415 - loads in 1 s
    from autoscaler.policies.registry import POLICIES, knobs_of  # noqa: PLC0415 - likewise
    from autoscaler.scoreboard_bounds import ORACLE  # noqa: PLC0415 - likewise

    if list_policies:
        for name in POLICIES:
            typer.echo(f"{name:32} {', '.join(f'{k}={v}' for k, v in knobs_of(name).items())}")
        typer.echo(f"{ORACLE:32} attainment=0.95 (a clairvoyant lower bound on GPU-hours, no policy)")
        return
    if not traces:
        raise BadSettings(("--traces: name at least one file or generator",))
    setup = _setup(profile, layout, minimum, maximum, gpus, start)
    listed = [*POLICIES, ORACLE] if policies == "all" else [name.strip() for name in policies.split(",")]
    named = list(dict.fromkeys(name for name in listed if name))
    if not named:
        raise BadSettings((f"--policies {policies!r}: name at least one policy, or all",))
    scoreboard.check(named)
    scoreboard.check_files(out, plot)
    specs = _distinct(_trace(text, trace_format, scale, input_tokens, output_tokens) for text in traces)
    jobs = [
        scoreboard.Job(spec, name, seed, setup, fluid=fluid)
        for spec in specs
        for name in named
        for seed in range(seeds)
    ]
    results = _run(jobs, workers or os.cpu_count() or 1)
    if out is not None:
        scoreboard.write_table(results, out)
    if plot is not None:
        scoreboard.draw(results, plot)
    if as_json:
        typer.echo(json.dumps([result.as_json() for result in results], indent=1))
        return
    _print(scoreboard.summed_up(results))


def _distinct(specs: Iterable[TraceSpec]) -> list[TraceSpec]:
    """Each trace once. Raises BadSettings for two files of one name, whose rows nobody could tell apart."""
    from autoscaler.scoreboard import GENERATED  # noqa: PLC0415 - loads in 1 s

    found = list(dict.fromkeys(specs))
    named: dict[str, TraceSpec] = {}
    for spec in found:
        name = spec.source if spec.source.startswith(GENERATED) else Path(spec.source).name
        if name in named:
            raise BadSettings((f"--traces: {named[name].source} and {spec.source} are both called {name}; rename one",))
        named[name] = spec
    return found


def _trace(text: str, default: str, scale: str, input_tokens: float | None, output_tokens: float | None) -> TraceSpec:
    from autoscaler.scoreboard import GENERATED, TraceSpec  # noqa: PLC0415 - loads in 1 s
    from autoscaler.simulator.traces import Format  # noqa: PLC0415 - likewise

    head, _, rest = text.partition(":")
    if not text.startswith(GENERATED) and rest and head in set(Format):
        return TraceSpec(rest, head, scale, input_tokens, output_tokens)
    return TraceSpec(text, default, scale, input_tokens, output_tokens)


def _run(jobs: list[Job], workers: int) -> list[Result]:
    from autoscaler.scoreboard_workers import run_jobs  # noqa: PLC0415 - loads in 1 s

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("simulating", total=len(jobs))

        def done(job: Job) -> None:
            progress.update(task, advance=1, description=f"{job.policy} seed {job.seed}")

        return run_jobs(jobs, workers, done)


COLUMNS = {
    "slo_attainment": ("SLO", "{:.1%}"),
    "gpu_hours": ("GPU-h", "{:,.2f}"),
    "cost_per_million_tokens": ("cost/M tok", "{:,.2f}"),
    "ttft_p99_s": ("TTFT p99 s", "{:,.2f}"),
    "tpot_p99_s": ("TPOT p99 s", "{:,.3f}"),
    "gpu_utilisation": ("GPU use", "{:.0%}"),
    "peak_over_ask": ("over-ask", "{:.2f}"),
    "direction_changes": ("turns", "{:.0f}"),
}


def _print(rows: list[Row]) -> None:
    console = Console(width=None if Console().is_terminal else 150, emoji=False, markup=False)
    for trace in dict.fromkeys(row.trace for row in rows):
        table = Table(title=trace, title_justify="left")
        table.add_column("policy")
        for head, _ in COLUMNS.values():
            table.add_column(head, justify="right")
        for row in (row for row in rows if row.trace == trace):
            table.add_row(row.policy, *(_cell(row, name, form) for name, (_, form) in COLUMNS.items()))
        console.print(table)


def _cell(row: Row, name: str, form: str) -> str:
    value: Any = row.mean[name]
    if value != value:  # noqa: PLR0124 - NaN: nothing can be said
        return "-"
    spread = row.spread[name]
    return form.format(value) + (f" ±{form.format(spread)}" if row.seeds > 1 and spread > 0 else "")

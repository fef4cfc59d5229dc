"""`tidegate whatif`: argument parsing for studies of scenarios."""

from __future__ import annotations

import json
import os
from pathlib import Path  # noqa: TC003 - typer reads the annotations at run time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from autoscaler.errors import BadSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autoscaler.whatif.run import Run
    from autoscaler.whatif.scenario import Scenario, Study
    from autoscaler.whatif.sweep import Backend

EXAMPLE = """\
# What would next quarter need, and what would faster starts save? Run it: tidegate whatif study.yaml
history:
  spec: gen:diurnal,rate=20,peak=3,period=86400,duration=172800   # or: trace: week.csv
  # url: http://prometheus.monitoring:9090                        # or a Prometheus, or  journal: /var/lib/…/journal
base:
  profile: llama-3.1-8b/h100-80gb/tp1
  maximum: 60
  slo: {attainment: 0.95}
scenarios:
  - name: today
  - name: next quarter
    growth: 1.5
grid:
  supply.start_scale: [1.0, 0.7]
  policy.name: [token-dynamics, keda-queue]
seeds: 1
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(whatif)


def whatif(
    study: Annotated[
        str | None, typer.Argument(help="Study file (YAML), or - for standard input.", show_default=False)
    ] = None,
    trace: Annotated[
        str | None,
        typer.Option(help="Instead of a study: this file or gen:…, with the usual grid.", show_default=False),
    ] = None,
    trace_format: Annotated[str, typer.Option("--format", help="Of --trace; as in `tidegate simulate`.")] = "demand",
    profile: Annotated[str, typer.Option(help="With --trace: hardware profile.")] = "llama-3.1-8b/a100-80gb/tp1",
    attainment: Annotated[
        float | None, typer.Option(min=0, max=1, help="Recommend for this share.", show_default=False)
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes at once (default: all cores).", show_default=False)
    ] = None,
    ray: Annotated[
        str | None, typer.Option(help="Run on the Ray cluster at this address, or auto.", show_default=False)
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder of finished runs (default: ~/.cache/tidegate/whatif).", show_default=False),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Neither read nor keep finished runs.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Write every run there (.csv, .parquet).", show_default=False)
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Write the recommendation as a picture (.png, .svg, .pdf).", show_default=False)
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write the recommendation as Markdown (.md).", show_default=False)
    ] = None,
    example: Annotated[bool, typer.Option("--example", help="Print an example study, and end.")] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the study file's JSON Schema, and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print every run as JSON.")] = False,
) -> None:
    """Run scenarios over a load, and recommend the cheapest that keeps the SLO."""
    if example:
        typer.echo(EXAMPLE, nl=False)
        return
    from autoscaler import whatif as rooms  # noqa: PLC0415 - loads in 2 s
    from autoscaler.scoreboard import check_files  # noqa: PLC0415 - likewise

    if schema:
        typer.echo(json.dumps(rooms.json_schema(), indent=2))
        return
    check_files(out, plot)
    _check_report(report)
    asked, scenarios = _asked(study, trace, trace_format, profile)
    loads = rooms.loads_of(asked)
    backend = rooms.run_on_ray(ray) if ray is not None else rooms.run_in_processes(workers or os.cpu_count() or 1)
    kept = None if fresh else rooms.Kept(cache or rooms.usual_folder())
    outcomes = _swept(scenarios, loads, asked.seeds, backend, kept)
    if out is not None:
        _write(outcomes, out)
    advice = rooms.recommend(outcomes, attainment)
    if plot is not None:
        _draw(outcomes, attainment, plot)
    if report is not None:
        _tell(advice.text, report)
    if as_json:
        bare = [{name: value for name, value in one.items() if name not in {"history", "needed"}} for one in outcomes]
        typer.echo(json.dumps({"recommended": advice.scenario, "nearest": advice.nearest, "runs": bare}, indent=1))
        return
    console = Console(width=None if Console().is_terminal else 150, emoji=False)
    console.print(Markdown(advice.text))


def _tell(text: str, report: Path) -> None:
    try:
        report.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadSettings((f"--report {report}: cannot be written: {error.strerror or error}",)) from None


def _check_report(report: Path | None) -> None:
    if report is not None and (report.suffix != ".md" or not report.parent.is_dir()):
        raise BadSettings((f"--report {report}: must end in .md, in a folder that exists",))


def _asked(study: str | None, trace: str | None, trace_format: str, profile: str) -> tuple[Study, tuple[Scenario, ...]]:
    from autoscaler import whatif as rooms  # noqa: PLC0415 - loads in 2 s

    if (study is None) == (trace is None):
        raise BadSettings(("give a study file or --trace, one of them; `tidegate whatif --example` prints a study",))
    if study is not None:
        return rooms.load_study(study)
    return rooms.study_of(
        {
            "history": {"spec": trace} if str(trace).startswith("gen:") else {"trace": trace, "format": trace_format},
            "base": {"profile": profile},
            "grid": {
                "growth": [1.0, 1.5],
                "supply.start_scale": [1.0, 0.7],
                "policy.name": ["token-dynamics", "static-peak", "keda-queue"],
            },
        }
    )


def _swept(
    scenarios: tuple[Scenario, ...], loads: Any, seeds: int, backend: Backend, kept: Any
) -> list[dict[str, Any]]:
    from autoscaler.whatif.run import runs  # noqa: PLC0415 - loads in 2 s
    from autoscaler.whatif.sweep import swept  # noqa: PLC0415 - likewise

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("simulating", total=len(runs(scenarios, loads, seeds)))
        already = 0

        def done(run: Run, was_kept: bool) -> None:
            nonlocal already
            already += was_kept
            said = f"{run.scenario.name[:40]}" + (f" ({already} kept from before)" if already else "")
            progress.update(task, advance=1, description=said)

        return swept(scenarios, loads, seeds=seeds, backend=backend, kept=kept, done=done)


def _write(outcomes: list[dict[str, Any]], path: Path) -> None:
    from autoscaler.whatif.tables import frame  # noqa: PLC0415 - loads in 1 s

    table = frame(outcomes)
    try:
        if path.suffix == ".csv":
            table.to_csv(path, index=False)
        else:
            table.to_parquet(path, index=False)
    except OSError as error:
        raise BadSettings((f"--out {path}: cannot be written: {error.strerror or error}",)) from None


def _draw(outcomes: list[Mapping[str, Any]] | list[dict[str, Any]], attainment: float | None, path: Path) -> None:
    from autoscaler.whatif.figures import recommendation_picture  # noqa: PLC0415 - matplotlib is an extra

    try:
        recommendation_picture(outcomes, attainment).savefig(path, dpi=150)
    except OSError as error:
        raise BadSettings((f"--plot {path}: cannot be written: {error.strerror or error}",)) from None

"""`tidegate check`: the preflight before the loop, or, with `--manifests`, the traps in HPA and KEDA manifests."""

from __future__ import annotations

import json
import time
from pathlib import Path  # noqa: TC003 - typer reads the annotations at run time
from typing import TYPE_CHECKING, Annotated

import typer

from autoscaler import cli_manifests
from autoscaler.configuration import load
from autoscaler.logs import start_logs

if TYPE_CHECKING:
    from autoscaler.preflight import Finding

EXIT_FOUND = 1
"""The preflight found something."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(check)


def check(
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", envvar="TIDEGATE_CONFIG", help="YAML configuration.", show_default=False),
    ] = None,
    manifests: Annotated[
        list[Path] | None,
        typer.Option(
            "--manifests",
            help="Look at this file of HPAs or ScaledObjects instead (again for more; - is stdin). With --config their "
            "pools are compared, too. Exit code 2 on errors.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log debug messages too.")] = False,
) -> None:
    """Preflight: is Prometheus reachable, are every pool's series there, do labels match, are clocks and samples fresh?

    Exit code 1 with the list of problems, 0 when there is none.
    """
    if manifests:
        cli_manifests.check_manifests(manifests, config, as_json=as_json)
        return
    findings = _preflight(config, verbose=verbose)
    problems = [finding for finding in findings if not finding.good]
    if as_json:
        plain = [{"about": f.about, "ok": f.good, "message": f.message} for f in findings]
        typer.echo(json.dumps({"ok": not problems, "findings": plain}, indent=2, ensure_ascii=False))
    else:
        for finding in findings:
            typer.echo(f"{'ok     ' if finding.good else 'PROBLEM'}  {finding.about}: {finding.message}")
    if problems:
        raise typer.Exit(EXIT_FOUND)


def _preflight(config: Path | None, *, verbose: bool) -> list[Finding]:
    from autoscaler import build  # noqa: PLC0415 - servers and solver load in 1 s; --help should not wait
    from autoscaler.preflight import preflight  # noqa: PLC0415 - likewise

    loaded = load(config)
    start_logs("debug" if verbose else loaded.settings.log_level)
    with loaded.placing():
        parts = build.parts(loaded.settings)
    return preflight(parts, time.time())

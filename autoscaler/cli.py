"""The command line: argument parsing, and which room does the work. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer
import yaml
from rich.console import Console

from autoscaler import (
    __version__,
    cli_backtest,
    cli_check,
    cli_dashboard,
    cli_forecast,
    cli_manifests,
    cli_plan,
    cli_prefixes,
    cli_scoreboard,
    cli_whatif,
    environment,
    journal,
)
from autoscaler.configuration import Loaded, load
from autoscaler.credentials import unwritable
from autoscaler.environment import nearest
from autoscaler.errors import BadJournal, BadSettings, TidegateError
from autoscaler.logs import start_logs
from autoscaler.reference import json_schema, markdown
from autoscaler.settings import LoopSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autoscaler.build import Parts
    from autoscaler.model import Decision

app = typer.Typer(
    name="tidegate",
    help="A token-dynamics autoscaler for LLM inference on Kubernetes.",
    epilog="Exit codes: 0 all is well; 1 `check` found something, or nothing could be seen; 2 bad configuration or "
    "arguments, nothing was started.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
errors = Console(stderr=True, soft_wrap=True, emoji=False)

LATEST = 1e11
"""Unix seconds of the year 5138; beyond it somebody gave milliseconds."""
EXIT_FOUND = 1
"""`check` found something, or `once` could not decide."""

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", envvar="TIDEGATE_CONFIG", help="YAML configuration.", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Log debug messages too.")]


def main() -> None:
    """Console script."""
    out: TextIO | None = sys.stdout
    try:
        try:
            app()
        finally:
            if out is not None and sys.stdout is out:  # None: started with a closed stdout
                out.flush()  # a full disk shows itself here at the latest, and not as a traceback of the interpreter's
    except SystemExit:
        if sys.stdout is out:
            raise
        raise SystemExit(0) from None  # click has put something over a stdout whose reader left: `tidegate … | head`
    except TidegateError as error:
        for problem in error.problems if isinstance(error, BadSettings) else (str(error),):
            errors.print(f"error: {problem}", style="red", markup=False, highlight=False)
        raise SystemExit(error.exit_code) from None
    except BrokenPipeError:  # likewise, while Rich was writing
        sys.stderr.close()
        raise SystemExit(0) from None
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what could not be written is not tried again at the end
        errors.print(f"error: cannot write: {error.strerror}; the output is not whole", style="red", highlight=False)
        raise SystemExit(EXIT_FOUND) from None


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tidegate {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _version_wanted: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """A token-dynamics autoscaler for LLM inference on Kubernetes."""


def _loaded(config: Path | None, verbose: bool) -> Loaded:
    loaded = load(config)
    start_logs("debug" if verbose else loaded.settings.log_level)
    return loaded


def _parts(config: Path | None, verbose: bool) -> Parts:
    from autoscaler import build  # noqa: PLC0415 - see run

    loaded = _loaded(config, verbose)
    with loaded.placing():
        return build.parts(loaded.settings)


def _out(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


@app.command()
def run(
    config: ConfigOption = None,
    ready_file: Annotated[
        Path | None,
        typer.Option(help="Write the servers' addresses there (JSON) once they listen.", show_default=False),
    ] = None,
    verbose: VerboseOption = False,
) -> None:
    """Run the control loop and serve the wishes until told to stop (SIGTERM, Ctrl-C)."""
    from autoscaler import build  # noqa: PLC0415 - servers and solver load in 1 s; --help should not wait
    from autoscaler.service import serve  # noqa: PLC0415 - likewise

    loaded = _loaded(config, verbose)
    with loaded.placing():
        parts = build.parts(loaded.settings)
        problems = tuple(unwritable(loaded.settings))
        if ready_file is not None and not ready_file.absolute().parent.is_dir():
            problems += (f"--ready-file {ready_file}: its folder does not exist; create it first",)
        if problems:
            raise BadSettings(problems)
        serve(parts, ready_file=ready_file)


@app.command()
def once(
    config: ConfigOption = None,
    at: Annotated[
        float | None,
        typer.Option(help="Decide as of this Unix time instead of now (Prometheus only).", min=0, show_default=False),
    ] = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """One tick against the metric source; print what would be wanted, and why. Nothing is published or saved."""
    from autoscaler.once import decide_once  # noqa: PLC0415 - see run

    parts = _parts(config, verbose)
    if at is not None and (parts.settings.source.kind == "scrape" or not at < LATEST):
        raise BadSettings(
            (f"--at {at:g}: use Unix seconds, with source.kind prometheus; engines know only the present",)
        )
    seen, decision = decide_once(parts, time.time() if at is None else at)
    if as_json:
        _out({**journal.plain_decision(decision), "notes": list(seen.notes), "source": seen.source})
    else:
        for role in decision.roles:
            typer.echo(role.sentence)
        for note in seen.notes:
            errors.print(f"note: {note}", markup=False, highlight=False)
    if not decision.roles:
        errors.print("note: every pool is disabled (`enabled: false`), so there is nothing to decide", markup=False)
    if all(role.blind is not None for role in decision.roles):
        raise typer.Exit(EXIT_FOUND)


@app.command()
def explain(
    file: Annotated[
        Path | None, typer.Argument(help="Journal; the configuration's by default.", show_default=False)
    ] = None,
    config: ConfigOption = None,
    last: Annotated[int, typer.Option("--last", "-n", min=1, help="How many ticks.")] = 5,
    pool: Annotated[
        str | None, typer.Option(help="Only this pool (name or namespace/name).", show_default=False)
    ] = None,
    changes: Annotated[bool, typer.Option("--changes", help="Only wishes that differ from the tick before.")] = False,
    as_json: JsonOption = False,
) -> None:
    """The last decisions from the journal, as sentences."""
    ticks: deque[dict[str, Any]] = deque(maxlen=last)
    before: dict[str, int | None] = {}
    known: set[str] = set()
    path = _journal_path(file, config)
    for decision in _decisions(path):
        known |= {f"{role.key.namespace}/{role.key.pool}" for role in decision.roles}
        roles = [
            role
            for role in decision.roles
            if pool in {None, role.key.pool, f"{role.key.namespace}/{role.key.pool}"}
            and (not changes or before.get(str(role.key), role.desired) != role.desired)
        ]
        before = {str(role.key): role.desired for role in decision.roles}
        if roles:
            plain = journal.plain_decision(decision)["roles"]
            kept = {role.key for role in roles}
            told = [p for p, role in zip(plain, decision.roles, strict=True) if role.key in kept]
            ticks.append({"at": decision.at, "roles": told, "sentences": [role.sentence for role in roles]})
    if pool is not None and known and not {pool} & (known | {name.partition("/")[2] for name in known}):
        raise BadSettings((f"--pool {pool!r}: not in {path}; {nearest(pool, known)}",))
    if as_json:
        _out(list(ticks))
        return
    if not ticks:
        errors.print(f"note: {path} holds no such decision", markup=False, highlight=False)
    for entry in ticks:
        for sentence in entry["sentences"]:
            typer.echo(f"{_stamp(entry['at'])}  {sentence}")


def _decisions(path: Path) -> Iterator[Decision]:
    try:
        for _, decision in journal.read(path):
            yield decision
    except OSError as error:
        raise BadJournal(f"{path}: cannot be read: {error.strerror}; name the file the loop writes") from None
    except RecursionError:
        raise BadJournal(f"{path}: holds something nested too deeply to be a journal") from None


def _stamp(at: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(at))
    except (OverflowError, ValueError, OSError):  # a time no calendar has
        return f"{at:g}"


def _journal_path(file: Path | None, config: Path | None) -> Path:
    if file is not None:
        return file
    if config is None:
        loop = environment.read(os.environ).values.get("loop", {})
        return Path(loop.get("journal_file") or LoopSettings().journal_file or "")
    named = load(config).settings.loop.journal_file
    if named is None:
        raise BadSettings((f"{config}: loop.journal_file is empty, so no journal is written; name a journal instead",))
    return Path(named)


@app.command("config")
def config_command(
    config: ConfigOption = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of the configuration instead.")
    ] = False,
    reference: Annotated[bool, typer.Option("--reference", hidden=True, help="Print the reference, Markdown.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Print the effective configuration: file, environment and defaults together. Secrets are masked."""
    if schema or reference:
        if schema:
            _out(json_schema())
        else:
            typer.echo(markdown(), nl=False)
        return
    effective = load(config).settings.model_dump(mode="json")
    if as_json:
        _out(effective)
    else:
        typer.echo(yaml.safe_dump(effective, sort_keys=False, allow_unicode=True), nl=False)


@app.command()
def demo(
    seconds: Annotated[float, typer.Option(min=10, max=86_400, help="Length of the demonstration.")] = 180,
    as_json: Annotated[bool, typer.Option("--json", help="No live view; one JSON summary at the end.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the workload.")] = 0,
    source: Annotated[
        str, typer.Option(help="auto, prometheus or scrape; auto takes Prometheus when it is installed.")
    ] = "auto",
    workdir: Annotated[
        Path | None, typer.Option(help="Keep all files there (default: a temporary folder).", show_default=False)
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Of the web page; 0 takes a free one.")] = 0,
) -> None:
    """An emulated prefill/decode fleet, a real Prometheus, the real loop and API, and a live view. Needs no cluster.

    The loop is restarted when it dies, Prometheus a minute after it died: kill either to see what happens.
    """
    from autoscaler.demo.conductor import DemoOptions, SourceKind, conduct  # noqa: PLC0415 - see run

    try:
        kind = SourceKind(source)
    except ValueError:
        raise BadSettings((f"--source {source!r}: use auto, prometheus or scrape",)) from None
    start_logs("warning" if not as_json else "info")
    summary = conduct(
        DemoOptions(seconds=seconds, seed=seed, source=kind, workdir=workdir, port=port, live=not as_json)
    )
    if as_json:
        _out(summary)


cli_scoreboard.register(app)
cli_whatif.register(app)
cli_backtest.register(app)
cli_check.register(app)
cli_manifests.register(app)
cli_forecast.register(app)
cli_dashboard.register(app)
cli_prefixes.register(app)
cli_plan.register(app)


if __name__ == "__main__":
    main()

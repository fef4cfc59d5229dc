"""`tidegate dashboard`: look at a journal without a running loop."""

from __future__ import annotations

import signal
from pathlib import Path  # noqa: TC003 - typer reads the annotations at run time
from threading import Event
from typing import Annotated

import typer

from autoscaler.errors import BadJournal, BadSettings


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(dashboard)


def dashboard(
    journal: Annotated[Path, typer.Argument(help="Journal that `tidegate run` or the demonstration wrote.")],
    host: Annotated[str, typer.Option(help="Where to listen; there is no authentication.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8081,
) -> None:
    """Replay a journal in the dashboard until Ctrl-C."""
    from autoscaler.dashboard.api import Dashboard  # noqa: PLC0415 - loads in 2 s
    from autoscaler.dashboard.replay import Replay  # noqa: PLC0415 - likewise
    from metrics_adapter.board import Board, Limits  # noqa: PLC0415 - likewise
    from metrics_adapter.exposition import Telemetry  # noqa: PLC0415 - likewise
    from metrics_adapter.server import Server, ServerError, compose  # noqa: PLC0415 - likewise

    replay = Replay(journal)
    replay.refresh()
    span = replay.span()
    if not span.ticks:
        raise BadJournal(f"{journal}: there is no such journal, or no tick in it")
    shown = Dashboard(None, replay)
    meter = Telemetry(Board(Limits(1.0, 1.0), lambda: 0.0))
    stop = Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    try:
        with Server(compose([shown.router()], meter), host, port) as server:
            typer.echo(f"{span.ticks} ticks at {server.url}/dashboard/ (Ctrl-C ends)")
            stop.wait()
    except ServerError as error:
        raise BadSettings((f"--port: {error}",)) from None
    finally:
        shown.close()

"""The demonstration's live view in the terminal."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import RenderableType

SPARKS = "▁▂▃▄▅▆▇█"
WIDTH = 40
SENTENCES = 6


def sparkline(values: list[float], width: int = WIDTH) -> str:
    """The last `width` values as block characters, scaled to the largest."""
    shown = values[-width:]
    top = max(shown, default=0.0)
    if top <= 0:
        return SPARKS[0] * len(shown)
    return "".join(SPARKS[min(len(SPARKS) - 1, int(value / top * len(SPARKS)))] for value in shown)


class View:
    """Draws on stderr, so that stdout stays for results; a dumb terminal gets a line now and then."""

    def __init__(self, page: str, source: str) -> None:
        self._page = page
        self._source = source
        self._console = Console(stderr=True)
        self._live = Live(console=self._console, auto_refresh=False, transient=False)
        self._spoken = 0.0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        else:
            self._console.print(f"status page: {self._page}   source: {self._source}", highlight=False)
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, elapsed: float, seconds: float, fleet: dict[str, Any], status: dict[str, Any]) -> None:
        """Bring the view up to date; `fleet` and `status` are what the two processes last said (maybe nothing yet)."""
        if self._console.is_terminal:
            self._live.update(self._picture(elapsed, seconds, fleet, status), refresh=True)
        elif elapsed - self._spoken >= 5.0:  # noqa: PLR2004 - a line every five seconds is enough for a log
            self._spoken = elapsed
            self._console.print(_line(elapsed, fleet), highlight=False, markup=False)

    def _picture(self, elapsed: float, seconds: float, fleet: dict[str, Any], status: dict[str, Any]) -> RenderableType:
        head = Text.assemble(
            ("Tidegate demo ", "bold"),
            f"{elapsed:4.0f} / {seconds:.0f} s   source: {self._source}   page: {self._page}",
        )
        bar = ProgressBar(total=seconds, completed=elapsed, width=WIDTH * 2)
        parts: list[RenderableType] = [head, bar]
        parts += [_pool(pool, status) for pool in fleet.get("pools", [])]
        said = [entry for entry in status.get("said", []) if entry.get("text")][-SENTENCES:]
        lines = [f"{time.strftime('%H:%M:%S', time.localtime(e['at']))}  {e['text']}" for e in reversed(said)]
        parts.append(
            Panel(Text("\n".join(lines) or "no decision yet"), title="decisions, newest first", title_align="left")
        )
        if status.get("failure"):
            parts.append(Text(f"blind: {status['failure']}", style="bold red"))
        return Group(*parts)


def _pool(pool: dict[str, Any], status: dict[str, Any]) -> Table:
    slo = pool["slo"]
    attainment = "-" if slo["attainment"] is None else f"{slo['attainment']:.1%}"
    rates = [sample["requests_per_s"] for sample in pool["history"]]
    load = f"{pool['requests_per_s']:.1f} requests/s {sparkline(rates)}"
    table = Table(
        title=f"{pool['name']}  {load}  SLO attainment {attainment}",
        title_justify="left",
    )
    for column in ("role", "load tok/s", "forecast", "velocity/replica", "wanted", "starting", "ready", "queue", "HPA"):
        table.add_column(column, justify="left" if column in {"role", "HPA"} else "right", no_wrap=True)
    decided = {role["key"]: role for role in status.get("roles", [])}
    for name, role in pool["roles"].items():
        told = decided.get(f"{pool['namespace']}/{pool['name']}/{name}", {})
        velocity = (told.get("velocity") or {}).get("tokens")
        hpa = role["hpa"] or {}
        table.add_row(
            name,
            _number(told.get("load")),
            _number(told.get("forecast")),
            _number(velocity),
            _number(told.get("desired")),
            str(role["starting"]),
            str(role["ready"]),
            str(role["waiting"] + role["held"]),
            "follows" if hpa.get("scaling_active") else f"holds: {str(hpa.get('message'))[:40]}",
        )
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _line(elapsed: float, fleet: dict[str, Any]) -> str:
    said = [f"{elapsed:5.0f} s"]
    for pool in fleet.get("pools", []):
        roles = ", ".join(f"{n} {r['wanted']} wanted {r['ready']} ready" for n, r in pool["roles"].items())
        met = pool["slo"]["attainment"]
        slo = "-" if met is None else f"{met:.1%}"
        said.append(f"{pool['name']}: {pool['requests_per_s']:.1f} requests/s; {roles}; SLO {slo}")
    return "  ".join(said)

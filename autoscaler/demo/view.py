"""The demonstration's live view in the terminal."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any, Self, TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from autoscaler.demo.summary import in_words

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import RenderableType

    from autoscaler.demo.setting import Stage
    from autoscaler.demo.summary import Seen

SPARKS = "▁▂▃▄▅▆▇█"
NARROW = 110
"""Below so many columns the tables leave out what can be done without."""
FEWEST_SENTENCES, MOST_SENTENCES = 3, 14
NOTES = 3
SPEAK_EVERY_S = 5.0
"""Without a terminal: a line this often."""


def sparkline(values: list[float], width: int) -> str:
    """The last `width` values as block characters, scaled to the largest."""
    shown = values[-width:] if width > 0 else []
    top = max(shown, default=0.0)
    if top <= 0:
        return SPARKS[0] * len(shown)
    return "".join(SPARKS[min(len(SPARKS) - 1, int(value / top * len(SPARKS)))] for value in shown)


class View:
    """Draws on the given stream, so that stdout stays for results; without a terminal it writes a line now and then."""

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream)
        self._live = Live(console=self._console, auto_refresh=False)
        self._notes: deque[str] = deque(maxlen=NOTES)
        self._picture: list[RenderableType] = []
        self._spoken = -SPEAK_EVERY_S

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def note(self, text: str) -> None:
        """Say that something happened."""
        if self._live.is_started:
            self._notes.append(f"{time.strftime('%H:%M:%S')}  {text}")
            self._draw()
        else:
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def show(self, elapsed: float, seconds: float, stage: Stage, seen: Seen) -> None:
        """Bring the view up to date with what the fleet and the loop last said (maybe nothing yet)."""
        if self._live.is_started:
            self._picture = self._compose(elapsed, seconds, stage, seen)
            self._draw()
        elif elapsed - self._spoken >= SPEAK_EVERY_S:
            self._spoken = elapsed
            self._console.print(_line(elapsed, seen.fleet), highlight=False, markup=False, soft_wrap=True)

    def farewell(self, told: dict[str, Any], workdir: Path | None) -> None:
        """The summary in words, on stdout."""
        out = Console(highlight=False, markup=False)
        for sentence in in_words(told):
            out.print(sentence)
        if workdir is not None:
            out.print(f"All files are in {workdir}; `tidegate explain {workdir}/journal.jsonl` tells every decision.")

    def _draw(self) -> None:
        notes = [Text("\n".join(self._notes), style="yellow", no_wrap=True, overflow="ellipsis")] if self._notes else []
        self._live.update(Group(*self._picture, *notes), refresh=True)

    def _compose(self, elapsed: float, seconds: float, stage: Stage, seen: Seen) -> list[RenderableType]:
        pools = seen.fleet.get("pools", [])
        parts: list[RenderableType] = [_head(elapsed, seconds, seen.status), _places(stage), Text()]
        parts += [_pool(pool, seen.status, self._console.width) for pool in pools]
        # Everything but the sentences: head, addresses, a table per pool, the panel's frame and the notes.
        taken = 6 + sum(4 + len(pool["roles"]) for pool in pools) + NOTES + 1
        room = min(max(self._console.height - taken, FEWEST_SENTENCES), MOST_SENTENCES)
        parts.append(_decisions(seen.status, room))
        if seen.status.get("failure"):
            parts.append(Text(f"blind: {seen.status['failure']}", style="bold red", no_wrap=True, overflow="ellipsis"))
        return parts


def _head(elapsed: float, seconds: float, status: dict[str, Any]) -> RenderableType:
    row = Table.grid(padding=(0, 2))
    ticks = f"{status['ticks']} ticks through {status['source']}" if status.get("ticks") else "no tick yet"
    blind = status.get("blind_ticks", 0)
    row.add_row(
        Text("Tidegate demo", style="bold"),
        ProgressBar(total=seconds, completed=min(elapsed, seconds), width=20),
        f"{elapsed:.0f} of {seconds:.0f} s",
        Text(ticks, no_wrap=True),
        Text(f"{blind} blind", style="red", no_wrap=True) if blind else "",
    )
    return row


def _places(stage: Stage) -> RenderableType:
    """Where to look further; lines instead of one, so that addresses stay whole in a narrow terminal."""
    rows = Table.grid(padding=(0, 1))
    rows.add_column(style="dim", no_wrap=True)
    rows.add_column(no_wrap=True, overflow="ellipsis")
    rows.add_row("page", Text(stage.status_url, style="bold"))
    rows.add_row("files", str(stage.folder))
    return rows


def _pool(pool: dict[str, Any], status: dict[str, Any], width: int) -> Table:
    table = Table(title=_title(pool, width), title_justify="left", title_style="", box=SIMPLE_HEAD, pad_edge=False)
    wide = width >= NARROW
    columns = ["tokens/s", "load", "forecast", "a replica", "wanted", "starting", "ready", "queue"]
    for column in [*columns, "load lately", "HPA"] if wide else columns:
        left = column in {"tokens/s", "HPA", "load lately"}
        table.add_column(column, justify="left" if left else "right", no_wrap=True, overflow="ellipsis")
    decided = {role["key"]: role for role in status.get("roles", [])}
    for name, role in pool["roles"].items():
        key = f"{pool['namespace']}/{pool['name']}/{name}"
        told = decided.get(key, {})
        cells: list[str | Text] = [
            name,
            _number(told.get("load")),
            _number(told.get("forecast")),
            _velocity(told.get("velocity")),
            Text(_number(told.get("desired")), style="bold"),
            str(role["starting"]),
            str(role["ready"]),
            str(role["waiting"] + role["held"]),
        ]
        if wide:
            loads = [point[1] or 0.0 for point in status.get("history", {}).get(key, [])]
            cells += [sparkline(loads, width - 90), _hpa(role["hpa"] or {}, told)]
        table.add_row(*cells)
    return table


def _title(pool: dict[str, Any], width: int) -> Text:
    slo = pool["slo"]
    kept = "-" if slo["attainment"] is None else f"{slo['attainment']:.1%}"
    title = Text.assemble((pool["name"], "bold"), f"  {pool['requests_per_s']:.1f} requests/s ")
    if width >= NARROW:
        title.append(sparkline([sample["requests_per_s"] for sample in pool["history"]], width - 80), style="cyan")
    title.append(f"  SLO kept by {kept}")
    late = slo["recent_ttft_p95_s"], slo["recent_tpot_p95_s"]
    if late[0] is not None and late[1] is not None:
        title.append(f"  p95 {late[0]:.1f} s, {late[1] * 1000:.0f} ms/token")
    title.no_wrap, title.overflow = True, "ellipsis"
    return title


def _velocity(told: dict[str, Any] | None) -> str:
    """Tokens/s of one replica; `~` while it is still mostly the profile's word."""
    if told is None:
        return "-"
    return f"{'' if told['basis'].startswith('learned') else '~'}{told['tokens']:,.0f}"


def _hpa(hpa: dict[str, Any], told: dict[str, Any]) -> Text:
    if told.get("blind"):
        return Text("holds: blind", style="red")
    if hpa.get("scaling_active"):
        return Text("follows", style="green")
    return Text("no answer", style="red")


def _decisions(status: dict[str, Any], room: int) -> Panel:
    lines = Text(no_wrap=True, overflow="ellipsis")
    said = [entry for entry in status.get("said", []) if entry["desired"] is not None][-room:]
    # namespace/pool/role: the role says enough as long as there is one pool.
    skipped = 1 if len({entry["key"].rsplit("/", 1)[0] for entry in said}) > 1 else 2
    for entry in reversed(said):
        before = "" if entry["before"] is None else f"{entry['before']} → "
        lines.append(time.strftime("%H:%M:%S  ", time.localtime(entry["at"])), style="dim")
        lines.append(f"{entry['key'].split('/', skipped)[-1]} {before}{entry['desired']}", style="bold")
        lines.append(f"  {entry['brief']}\n")
    lines.right_crop(1 if said else 0)
    lines.append("" if said else "no decision yet")
    return Panel(lines, title="decisions, newest first", title_align="left")


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

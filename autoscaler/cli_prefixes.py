"""`tidegate kv`: what letting replicas go costs in KV cache, and the list to warm new ones with."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path  # noqa: TC003 - typer reads the annotations at run time
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from autoscaler.errors import BadSettings


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(kv)


def kv(
    trace: Annotated[Path, typer.Option(help="Trace with prefix blocks; a journal has none and is refused.")],
    trace_format: Annotated[str, typer.Option("--format", help="Of the trace.")] = "mooncake",
    profile: Annotated[
        str, typer.Option(help="Hardware profile, for KV bytes and room.")
    ] = "llama-3.1-8b/a100-80gb/tp1",
    replicas: Annotated[int, typer.Option(min=2, help="Before the scale-in.")] = 8,
    released: Annotated[int, typer.Option(min=1, help="Replicas that go.")] = 1,
    at: Annotated[
        float | None, typer.Option(help="When, s of the trace (default: its middle).", show_default=False)
    ] = None,
    horizon: Annotated[float, typer.Option(help="Seconds of hits to count afterwards.")] = 600.0,
    link: Annotated[float, typer.Option(help="Link to the store, Gbit/s.")] = 100.0,
    warm_share: Annotated[float, typer.Option(min=0, max=1, help="Share of a cache that a warm-up may load.")] = 0.25,
    warm_up: Annotated[
        Path | None, typer.Option(help="Write the hottest prefixes there (JSON lines).", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """How much KV is kept on scale-in by deleting, draining, warming up or offloading."""
    from autoscaler.profiles import load_profiles  # noqa: PLC0415 - loads in 1 s
    from autoscaler.simulator.requests import Workload  # noqa: PLC0415 - likewise
    from autoscaler.simulator.scenes import profile_named  # noqa: PLC0415 - likewise
    from autoscaler.simulator.traces import load  # noqa: PLC0415 - likewise
    from autoscaler.whatif.prefixes import ScaleIn, hottest, refuse_journal, scale_in  # noqa: PLC0415 - likewise

    refuse_journal(trace)
    found = load(trace, trace_format)
    if not isinstance(found, Workload):
        raise BadSettings((f"--trace {trace}: demand per bin has no prefixes; use a trace of requests with block ids",))
    hardware = profile_named(load_profiles(), profile)
    asked = ScaleIn(
        replicas=replicas,
        released=released,
        at_s=found.duration / 2 if at is None else at,
        cache_tokens=hardware.kv_capacity_tokens,
        kv_bytes_per_token=float(hardware.kv_bytes_per_token),
        link_gbps=link,
        horizon_s=horizon,
        warm_share=warm_share,
    )
    kept = scale_in(found, asked)
    listed = hottest(found, most_tokens=int(asked.cache_tokens * warm_share)) if warm_up is not None else ()
    if warm_up is not None:
        lines = [
            json.dumps({"hash_ids": list(one.blocks), "tokens": one.tokens, "requests": one.requests}) for one in listed
        ]
        try:
            warm_up.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        except OSError as error:
            raise BadSettings((f"--warm-up {warm_up}: cannot be written: {error.strerror or error}",)) from None
    if as_json:
        told = {"asked": asdict(asked), "choices": [asdict(one) for one in kept], "warm_up_prefixes": len(listed)}
        typer.echo(json.dumps(told, indent=1))
        return
    table = Table(title=f"{released} of {replicas} replicas let go at {asked.at_s:,.0f} s", title_justify="left")
    for head in ("choice", "hit share", "recomputed tokens", "cut off", "moved GB", "in s", "stored GB"):
        table.add_column(head, justify="left" if head == "choice" else "right")
    for one in kept:
        numbers = (f"{one.hit_share:.1%}", f"{one.recomputed_tokens:,}", f"{one.in_flight_tokens:,}")
        moved = (f"{one.moved_bytes / 1e9:,.1f}", f"{one.moved_s:,.1f}", f"{one.stored_bytes / 1e9:,.1f}")
        table.add_row(one.choice, *numbers, *moved)
    Console(width=None if Console().is_terminal else 120, emoji=False).print(table)

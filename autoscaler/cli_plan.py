"""`tidegate plan`: argument parsing for solving a supply problem from a file."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoscaler.errors import BadSettings

if TYPE_CHECKING:
    from optimizer import Change, Plan

EXIT_INFEASIBLE = 3
"""Minimums cannot be met even with every rule relaxed that may be."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(plan)


def plan(
    file: Annotated[
        str | None, typer.Argument(help="Problem file (YAML or JSON), or - for standard input.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say why: costs, what binds, the next-best plan, what would change it.")
    ] = False,
    gap: Annotated[float, typer.Option(min=0, max=1, help="Relative gap that counts as optimal.")] = 0.005,
    time_limit: Annotated[
        float, typer.Option(min=0, help="Seconds of work for the solver; the clock ends it at twice as many.")
    ] = 10.0,
    node_limit: Annotated[int | None, typer.Option(min=0, help="Nodes of its search tree.", show_default=False)] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the file's JSON Schema, and end.")] = False,
) -> None:
    """Solve a supply problem: what to convert, wake, start, preempt and provision, and what to give back.

    Exit codes: 0 a usable plan; 2 a bad file; 3 minimums cannot be met with all rules relaxed (best effort printed).
    """
    from autoscaler.plan_file import json_schema, load_problem  # noqa: PLC0415 - the solver loads in 1 s
    from optimizer import Effort, Limits, Status  # noqa: PLC0415 - likewise
    from optimizer import plan as decide  # noqa: PLC0415 - likewise

    if schema:
        typer.echo(json.dumps(json_schema(), indent=2))
        return
    if file is None:
        raise BadSettings(
            ("give a problem file, or - for standard input; `tidegate plan --schema` says what it holds",)
        )
    problem = load_problem(file)
    began = time.perf_counter()
    made = decide(problem, Effort(Limits(time_limit, gap, node_limit), alternative=explain, changes=explain))
    made = replace(made, seconds=time.perf_counter() - began)
    if as_json:
        typer.echo(json.dumps(_plain(made, explain), indent=2, ensure_ascii=False))
    else:
        typer.echo("\n".join(_told(made, explain)))
    if made.status is Status.INFEASIBLE:
        raise typer.Exit(EXIT_INFEASIBLE)


def _plain(made: Plan, explain: bool) -> dict[str, Any]:
    """The plan as plain values."""
    told: dict[str, Any] = {
        "status": made.status.value,
        "objective": made.objective,
        "gap": made.gap,
        "seconds": made.seconds,
        "actions": [_action(one) for one in made.actions],
        "binding": list(made.binding),
        "relaxed": list(made.relaxed),
        "reasons": list(made.reasons),
        "cost": asdict(made.cost),
        "pools": {
            pool.key: {
                "roles": {key: {**_role(role)} for key, role in pool.roles.items()},
                "shortage": [{"at_s": at_s, "amount": amount} for at_s, amount in pool.shortage],
            }
            for pool in made.pools.values()
        },
    }
    if explain:
        told["alternative"] = None if made.alternative is None else asdict(made.alternative)
        told["changes"] = [one._asdict() for one in made.changes]
    return told


def _role(role: Any) -> dict[str, Any]:
    names = ("target", "kept", "released", "awaited", "given_up", "taken")
    return {**{name: getattr(role, name) for name in names}, "by_variant": dict(role.by_variant)}


def _action(one: Any) -> dict[str, Any]:
    """An action without what does not concern it."""
    return {name: value for name, value in one._asdict().items() if value not in {"", None} or name == "until_s"}


def _told(made: Plan, explain: bool) -> list[str]:
    """The plan in words; how it was found is told where it is not known to be the best."""
    from optimizer import Status  # noqa: PLC0415 - the solver loads in 1 s

    gap = "no bound proven" if made.gap is None else f"gap {made.gap:.2%}"
    lines = [f"{made.status.value}: {made.objective:.4f} until the horizon ({gap}, {made.seconds or 0.0:.2f} s)"]
    for pool in made.pools.values():
        for key, role in pool.roles.items():
            name = f"{pool.key}/{key}" if key else pool.key
            moves = ", ".join(
                f"{count} {word}"
                for word, count in (
                    ("kept", role.kept),
                    ("awaited", role.awaited),
                    ("taken", role.taken),
                    ("released", role.released),
                    ("given up", role.given_up),
                )
                if count
            )
            lines.append(f"  {name}: {role.target} replicas" + (f" ({moves})" if moves else ""))
        ends = [f" until {at_s:g} s" for at_s, _ in pool.shortage[1:]] + [""]
        lines += [
            f"  {pool.key}: lacks {amount:.3g} from {at_s:g} s{end}"
            for (at_s, amount), end in zip(pool.shortage, ends, strict=False)
            if amount
        ]
    lines += [f"relaxed: {name}" for name in made.relaxed]
    if explain:
        return [*lines, *_explained(made)]
    first = 0 if made.status is not Status.OPTIMAL else len(made.reasons) - len(made.actions)
    return [*lines, *made.reasons[first:]]


def _explained(made: Plan) -> list[str]:
    lines = [*made.reasons]
    lines += [f"cost of {name.replace('_', ' ')}: {value:.4f}" for name, value in asdict(made.cost).items() if value]
    lines += [f"binding: {name}" for name in made.binding]
    if made.alternative is not None:
        unmet = " and ".join(made.alternative.relaxed)
        what = f"{unmet} not kept" if unmet else f"{made.alternative.cost:.4f}"
        lines.append(f"next best: without {made.alternative.without_tier} {what}")
    return [*lines, *(_changed(one) for one in made.changes)]


def _changed(one: Change) -> str:
    moved = f"{abs(one.by):g} {'more' if one.by > 0 else 'less'} of" if one.by else "doing without"
    return f"{moved} {one.limit} would save {one.saves:.4f}"

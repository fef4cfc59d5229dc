"""Hold the simulator against theory and against what others measured or published, and print one table.

    python bench/validation.py

The measured tables come beside the repository (../shared/data); without them only queues and the published step are
run. What misses its target is listed again at the end, with the cause as far as it is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import validation_queues as queues
import validation_splitwise as splitwise
import validation_step as step
import validation_vllm as vllm
from validation_table import HEAD

if TYPE_CHECKING:
    from validation_table import Line

CAUSES = {
    ("vLLM open loop, 2.0/s", "TTFT P50, s"): (
        "steps of this run took a seventh longer than profile.csv says (see its TPOT), those of the recorded run at "
        "the same load 2 % less; what else the machine's two cores did is not recorded"
    ),
    ("Splitwise", "TTFT of unseen batches, |error|"): (
        "not a target of the tables themselves, which are met: here batches of up to 32,768 tokens are foretold from "
        "single prompts of at most 8,192, and the table's batches of two differ by up to 30 % from single prompts of "
        "as many tokens"
    ),
    ("step", "P99 TTFT, s"): (
        "the replicas at the run's start are not published; the mean replicas tell 5, but from 2 it would be 321 s"
    ),
    ("step", "P99 time per output token, s"): (
        "not known: their chunks of prompts are not published and may be finer than the 8,192 tokens a step here; "
        "or they recompute less after a preemption"
    ),
}
"""Why a line misses, by the beginning of its experiment's name and its quantity."""


def cause(line: Line) -> str:
    """What is known of why it misses."""
    return next(
        (
            why
            for (name, quantity), why in CAUSES.items()
            if line.experiment.startswith(name) and line.quantity == quantity
        ),
        "not known",
    )


def main() -> None:
    """Print the table, the order of the step's shapes, which Splitwise rows miss, and what misses with its cause."""
    found = queues.lines()
    if vllm.VLLM.is_dir():
        found += vllm.lines()
    if splitwise.TABLE.is_file():
        found += splitwise.lines()
    found += step.lines()
    print(HEAD)
    for line in found:
        print(line.text())
    print(f"\n{sum(line.within for line in found)} of {len(found)} within target")
    for whose, shapes in zip(("published", "simulated"), step.ordering(), strict=True):
        print(f"{whose}: {' > '.join(shapes)}")
    if splitwise.TABLE.is_file():
        print("\n".join(splitwise.missed()))
    print("\nMISSES")
    for line in found:
        if not line.within:
            print(f"{line.text()}\n    {cause(line)}")


if __name__ == "__main__":
    main()

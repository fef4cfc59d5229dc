"""Hold the simulator against what others measured or published, and print one table.

    python bench/validation.py

The measured tables come beside the repository (../shared/data); without them only the published step is run.
"""

from __future__ import annotations

import validation_splitwise as splitwise
import validation_step as step
import validation_vllm as vllm
from validation_table import HEAD


def main() -> None:
    """Print the table, then which Splitwise rows miss and the order of the step's shapes."""
    found = []
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


if __name__ == "__main__":
    main()

"""`bench/forecasting.py --starts` reckons what it prints: its own truth, and an estimator that is told too much."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = """
import json, sys
sys.path.append("bench")
from forecasting_tick import MIXTURES, start_rows, true_p90
print(json.dumps({"rows": start_rows(repeats=4), "one": true_p90(MIXTURES["one, sd 0.3"])}))
"""


def test_every_mixture_is_judged_steady_and_after_a_step_change() -> None:
    """The p90 of a log-normal of median 100 and deviation 0.3 is 100 exp(0.3 x 1.2816) = 146.9."""
    run = subprocess.run(
        [sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    found = json.loads(run.stdout)
    assert abs(found["one"] - 146.88) < 0.01
    assert [row["case"] for row in found["rows"][:3]] == ["after 20", "10 after x0.5", "10 after x2"]
    assert len(found["rows"]) == 18
    steady = [row["median_error"] for row in found["rows"] if row["case"] == "after 20"]
    assert 0 < sum(steady) / len(steady) < 0.2

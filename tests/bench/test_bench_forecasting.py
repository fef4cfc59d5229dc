from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_speed_is_measured_on_the_product_and_printed_as_json() -> None:
    run = subprocess.run(
        [sys.executable, "bench/forecasting.py", "--speed", "--loads", "3", "--days", "1", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    found = json.loads(run.stdout)
    assert found["finite"]
    assert found["tick_max_s"] > 0
    assert {"python", "numpy", "statsmodels"} <= set(found["machine"])


def test_the_bench_does_not_hide_the_package_of_the_same_name_from_its_neighbours() -> None:
    code = "import forecasting.series, forecasting; print(forecasting.__file__)"
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, 'bench'); {code}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert Path(run.stdout.strip()).parent.name == "forecasting"

"""How wide honest bounds have to be, forecaster by forecaster, on recorded loads; and what a thousand loads cost.

    python bench/forecasting.py                                  the league over the recorded multi-day loads
    python bench/forecasting.py --forecasters ensemble,ridge     of these only
    python bench/forecasting.py --speed                          fit, update and memory for 1,000 loads x 5 horizons
    python bench/forecasting.py --tick                           the loop's bounds by the minute, with days and without
    python bench/forecasting.py --starts                         learned lead times against the true ones
    python bench/forecasting.py --json                           either as JSON

Needs the recorded loads and the yardstick in `shared/` beside the checkout for the league; `--speed` needs nothing.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

HERE = Path(__file__).resolve().parent


def _package() -> ModuleType:
    """The package of the same name, which this script hides from its neighbours: their own folder is searched first."""
    searched = sys.path[:]
    sys.modules.pop("forecasting", None)
    sys.path[:] = [entry for entry in searched if Path(entry).resolve() != HERE]
    try:
        return importlib.import_module("forecasting")
    finally:
        sys.path[:] = searched


if __name__ == "__main__":
    from forecasting_bench import main

    raise SystemExit(main())
if __name__ == "forecasting":
    sys.modules[__name__] = _package()

"""Plans: exact on tiny problems, as cheap as the reference solver's, and how their time grows with size.

    python bench/optimizer.py            all tables, about five minutes
    python bench/optimizer.py --quick    fewer repetitions, without the largest

The reference problems lie in `shared/` beside the checkout; without them their table is left out.
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
    sys.modules.pop("optimizer", None)
    sys.path[:] = [entry for entry in searched if Path(entry).resolve() != HERE]
    try:
        return importlib.import_module("optimizer")
    finally:
        sys.path[:] = searched


if __name__ == "__main__":
    from optimizer_bench import main

    raise SystemExit(main())
if __name__ == "optimizer":
    sys.modules[__name__] = _package()

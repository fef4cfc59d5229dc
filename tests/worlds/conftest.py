"""Lets the tests of the decision core share one scripted pool (`scripted.py` in tests/core)."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "core"))

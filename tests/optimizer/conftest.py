"""Lets the tests of the optimiser share their oracle (`supply_oracle.py` beside this file)."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))

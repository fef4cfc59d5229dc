"""Lets the tests of the decision core share one scripted pool (`scripted.py`, beside this file)."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))

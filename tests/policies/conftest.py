"""Lets the tests of the policies share their hand-made roles (`rival_scenes.py` beside this file)."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))

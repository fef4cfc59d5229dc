"""Lets these tests use the test API server, the rig of the cluster's hands, and the modules beside this file."""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
for folder in (TESTS / "kubernetes_api", TESTS / "cluster", TESTS / "crd", Path(__file__).parent):
    sys.path.append(str(folder))

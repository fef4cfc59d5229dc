"""One tick of the loop against a real Prometheus and a generated fleet: where the time goes, and how much memory.

    python bench/tick.py                               1,000 pools x 8 replicas, colocated
    python bench/tick.py --pools 10,100,1000           queries per tick beside one another
    python bench/tick.py --disaggregated               4 prefill + 4 decode replicas in each pool
    python bench/tick.py --supply scarce               every GPU is held already, so that the plan has to choose
    python bench/tick.py --json                        the same as one JSON list

Everything is the product's own: settings, PrometheusSource, LiveWorld.observe, tick, Publisher and Recorder. Memory
starts with a full load history, so that the first tick measured costs what the thousandth does. Target at 1,000 pools:
p95 of a whole tick at most 2.0 s and at most 600 MiB resident, on two cores shared with Prometheus and the fleet.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import psutil
import structlog
from generated_fleet import namespace, pool_name
from tick_stages import ORDER, Stages, table
from tick_world import RealPrometheus, generated

from autoscaler import build, loop, memory, service, store
from autoscaler import tick as ticking
from autoscaler.cluster.live import LiveWorld
from autoscaler.memory import Memory, RoleMemory
from autoscaler.model import Role
from autoscaler.publishing import Publisher, Status
from autoscaler.settings import Settings
from forecasting.series import Series
from metrics_adapter import prometheus
from metrics_adapter.board import Board, Limits
from metrics_adapter.exposition import Telemetry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoscaler.build import Parts
    from metrics_adapter.signals import Group, MetricSource, Readings

TARGET_S, TARGET_MIB, AT_POOLS = 2.0, 600.0, 1000
PROFILE = "llama-3.1-8b/h100-80gb/tp1"
KINDS = 5
"""Accelerator names in the `split` supply: contention then falls apart into as many plans."""

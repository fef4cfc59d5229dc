"""What several of these tests begin with: a cluster full of training, and decisions until they have their effect."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from site_of_tests import Site

    from autoscaler.cluster.room import Room
    from autoscaler.model import Decision


def decide_until(site: Site, room: Room, wish: Callable[[], Decision], holds: Callable[[], object], why: str) -> float:
    """Tick every half second until it holds; returns how long it took from the first decision that counted, s."""
    begun: list[float] = []

    def ticked() -> bool:
        if room.decided(wish(), None) is not None and not begun:
            begun.append(time.monotonic())
        deadline = time.monotonic() + 0.5
        while time.monotonic() < deadline:
            if holds():
                return True
            time.sleep(0.02)
        return False

    site.eventually(ticked, why, 60.0)
    return time.monotonic() - begun[0]


def training_everywhere(site: Site, jobs: int = 2) -> None:
    for number in range(jobs):
        site.node(4)
        site.job(f"train-{number}", 2, 2)
    site.deployment(0)
    site.eventually(lambda: site.bound() == 2 * jobs, "training never started")
    site.eventually(
        lambda: all(pod.get("status", {}).get("phase") == "Running" for pod in site.pods()), "training never ran"
    )

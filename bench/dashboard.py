"""First paint, and a steady browser: 200 pools with 24 hours of history at 60 updates a minute.

    python bench/dashboard.py --minutes 10

Prints one JSON object. First paint is the browser's own `first-contentful-paint` on loopback; heap is its JavaScript
heap after a forced collection, per minute. Needs Debian's chromium and playwright (development dependency).
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import shutil
import sys
import threading
import time
from typing import Any

import psutil
from playwright.sync_api import Page, sync_playwright

from autoscaler.dashboard.api import Dashboard
from autoscaler.dashboard.chronicle import Chronicle, Replica
from autoscaler.model import Decision, Observation, Role, RoleDecision, RoleKey, RoleObservation, Velocity
from metrics_adapter.board import Board, Limits
from metrics_adapter.exposition import Telemetry
from metrics_adapter.server import Server, compose

DAY_MINUTES = 1440
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def keys(pools: int) -> list[RoleKey]:
    """So many pools of one role."""
    return [RoleKey("bench", f"pool-{number:03}", Role.COLOCATED) for number in range(pools)]


def tick(at: float, roles: list[RoleKey]) -> tuple[Observation, Decision]:
    """A tick in which every pool's load has moved on."""
    seen, decided = [], []
    for number, key in enumerate(roles):
        load = 2000.0 + 1000.0 * math.sin(at / 3600 + number)
        ready = math.ceil(load / 500)
        rates = {"generation_rate": load, "prompt_rate": 5 * load, "first_token_rate": load / 200}
        seen.append(RoleObservation(key, at, ready, ready, ready=ready, running=40.0, kv_usage=0.4, **rates))
        velocity = Velocity(500.0, 0.05, "learned", "itl")
        decided.append(RoleDecision(key, ready + 1, ready + 1, ready, 1, load, load * 1.2, velocity))
    return Observation(at, tuple(seen)), Decision(at, tuple(decided))


def measure(pools: int, minutes: float, interval_s: float) -> dict[str, Any]:
    """Fill a day, open the page, watch it while the loop ticks."""
    roles = keys(pools)
    replica = Replica(1, 2.5, "a100-80gb", "llama-3.1-8b/a100-80gb/tp1", 1, 40)
    chronicle = Chronicle("bench", interval_s, 0.0, {str(key): replica for key in roles})
    began = time.time() - 60.0 * DAY_MINUTES
    for minute in range(DAY_MINUTES):
        chronicle.note(*tick(began + 60.0 * minute, roles))
    shown = Dashboard(chronicle, None)
    server = Server(compose([shown.router()], Telemetry(Board(Limits(1.0, 1.0), time.time))), "127.0.0.1", 0)
    stop = threading.Event()

    def loop() -> None:
        while not stop.wait(interval_s):
            chronicle.note(*tick(time.time(), roles))

    ticking = threading.Thread(target=loop, daemon=True)
    with server, sync_playwright() as driver:
        ticking.start()
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=QUIET)
        page = browser.new_page(viewport={"width": 1500, "height": 1000})
        page.goto(f"{server.url}/dashboard/")
        page.wait_for_selector("#load-chart canvas")
        page.select_option("#span", "86400")
        found = {"pools": pools, "interval_s": interval_s, **paint(page), "heap MiB per minute": heaps(page, minutes)}
        found["updates drawn in the last 10 s"] = updates(page)
        browser.close()
        stop.set()
        ticking.join()
    found["server resident MiB"] = round(psutil.Process().memory_info().rss / 2**20)
    return found


def paint(page: Page) -> dict[str, float]:
    """Milliseconds from the start of navigation to the first content, and to the first chart."""
    entry = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    return {"first contentful paint ms": round(entry)}


def heaps(page: Page, minutes: float) -> list[float]:
    """The page's heap after a collection, once a minute (at least twice)."""
    client = page.context.new_cdp_session(page)
    found = []
    for turn in range(max(2, round(minutes) + 1)):
        if turn:
            page.wait_for_timeout(60_000 if minutes >= 1 else 60_000 * minutes)
        client.send("HeapProfiler.collectGarbage")
        found.append(round(client.send("Runtime.getHeapUsage")["usedSize"] / 2**20, 2))
    return found


def updates(page: Page) -> int:
    """How often the state line's clock changed in 10 s."""
    seen = set()
    until = time.monotonic() + 10
    while time.monotonic() < until:
        seen.add(page.inner_text("#state"))
        page.wait_for_timeout(200)
    return len(seen) - 1


def main() -> int:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pools", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between ticks")
    given = parser.parse_args()
    if shutil.which("chromium") is None:
        print("chromium is missing (Debian: apt-get install chromium)", file=sys.stderr)
        return 2
    told = measure(given.pools, given.minutes, given.interval)
    told["machine"] = f"{platform.machine()}, {psutil.cpu_count()} cores, Python {platform.python_version()}"
    print(json.dumps(told, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What happens when parts die in mid-run: Prometheus, the loop, a replica.

Everywhere the traffic is turned down to almost nothing at the moment of the failure: capacity that cannot be seen must
be held although far less would do, and is let go only when seeing has come back.

Two demonstrations run side by side: one loses Prometheus for a minute, and meanwhile the other loses its loop and its
replicas' good sense.
"""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.e2e.conftest import Demo, Watch

    Waiting = Callable[[Callable[[], Any], float, str], Any]

pytestmark = pytest.mark.e2e

ROLES = ("prefill", "decode")
TICK_S = 2.0
HARD_AGE_S = 12.0
"""Six ticks: the age at which the demonstration's API refuses a decision in any case."""
LITTLE = 0.2
"""Of 4.5 requests/s: one replica of each role is plenty."""
MUCH = 4.0
"""18 requests/s: about 3 prefill and 4 decode replicas."""
AT_LEAST = 3
SCRAPED = 'min(sum_over_time(up{job="engines"}[8s]))'
"""Good scrapes of the replica that has fewest of them."""


@pytest.fixture(scope="module")
def losing_prometheus(start_demo: Callable[..., Demo]) -> Demo:
    return start_demo("--seconds", "600", "--json")


@pytest.fixture(scope="module")
def steady(start_demo: Callable[..., Demo]) -> Demo:
    return start_demo("--seconds", "600", "--json")


@pytest.fixture(scope="module", autouse=True)
def both_started(losing_prometheus: Demo, steady: Demo) -> None:
    """Start both before the first test."""


@dataclass(slots=True)
class Outage:
    """One demonstration whose Prometheus was killed: when (Unix seconds), what it had then, and who watches it."""

    demo: Demo
    at: float
    floor: dict[str, int]
    watch: Watch
    loop: int


@pytest.fixture(scope="module")
def outage(losing_prometheus: Demo, watching: type[Watch]) -> Iterator[Outage]:
    demo = losing_prometheus
    floor = demo.grow(MUCH, AT_LEAST)
    demo.kill("prometheus")
    demo.tell_fleet("/load", {"factor": LITTLE})
    with watching(demo) as watch:
        yield Outage(demo, time.time(), floor, watch, demo.pid("loop"))


def desired(entry: dict[str, Any]) -> dict[str, int]:
    return {role["key"]["role"]: role["desired"] for role in entry["decision"]["roles"]}


def blind(entry: dict[str, Any]) -> list[str]:
    return [role["key"]["role"] for role in entry["decision"]["roles"] if role.get("blind")]


def heard(entry: dict[str, Any], role: str) -> tuple[int, int]:
    """(engines that report, replicas that are ready) at a tick."""
    (seen,) = (one for one in entry["seen"]["roles"] if one["key"]["role"] == role)
    return int(seen["reporting"]), int(seen["ready"])


def test_while_prometheus_is_away_the_api_says_why_it_has_no_number(outage: Outage, waiting: Waiting) -> None:
    demo = outage.demo

    def refused() -> list[str]:
        answers = [demo.ask_hpa(role) for role in ROLES]
        return [answer.json()["message"] for answer in answers] if all(a.status_code == 503 for a in answers) else []

    for role, message in zip(ROLES, waiting(refused, HARD_AGE_S, "503 for both roles"), strict=True):
        assert f"llama-8b {role} is blind" in message
        assert "prometheus" in message.lower()
        assert "refused" in message.lower(), "the cause, not only that there is one"
    metrics = demo.get("status", "/metrics").text
    for role in ROLES:
        assert f'tidegate_blind{{namespace="demo",role="{role}",workload="llama-8b"}} 1.0' in metrics
    assert "tidegate_source_errors_total{" in metrics
    assert demo.get("status", "/readyz").status_code == 200
    assert demo.get("status", "/livez").status_code == 200
    assert demo.status()["failure"]


def test_a_killed_loop_comes_back_with_its_memory(steady: Demo, watching: type[Watch]) -> None:
    floor = steady.grow(MUCH, AT_LEAST)
    before = steady.journal()[-1]
    with watching(steady) as watch:
        old = kill_loop(steady)
        first, second, third = steady.ticks_after(before["decision"]["at"] + TICK_S, 3, 60)
    assert old != steady.pid("loop")
    assert all(desired(first)[role] >= floor[role] for role in ROLES)
    assert not watch.below(floor)
    assert not blind(third)
    assert "memory restored" in loop_log(steady)
    assert second["decision"]["at"] - first["decision"]["at"] < 3 * TICK_S


def kill_loop(demo: Demo) -> int:
    """SIGKILL, and wait until another loop has been started in its place; the old process ID."""
    old = demo.kill("loop")
    deadline = time.monotonic() + 30
    while demo.pid("loop") == old:
        assert time.monotonic() < deadline, "the conductor starts another loop"
        time.sleep(0.1)
    return old


def loop_log(demo: Demo) -> str:
    return (demo.folder / "loop.log").read_text(encoding="utf-8")


@pytest.mark.parametrize("damage", [None, b"\x00\xff{]", b'{"version": 1, "at": 5, "roles": {"x": 1}}'])
def test_a_loop_without_usable_memory_shrinks_nothing(
    steady: Demo, watching: type[Watch], waiting: Waiting, damage: bytes | None
) -> None:
    """Deleted, garbage, and JSON of the wrong shape, while the traffic is gone: only caution keeps the replicas."""
    floor = steady.grow(MUCH, AT_LEAST)
    memory = steady.folder / "memory.json"
    with watching(steady) as watch:
        os.kill(steady.pid("loop"), signal.SIGSTOP)  # it must not save again in between
        said = len(loop_log(steady))
        if damage is None:
            memory.unlink()
        else:
            memory.write_bytes(damage)
        kill_loop(steady)
        steady.tell_fleet("/load", {"factor": LITTLE})
        began = waiting(lambda: "tidegate runs" in loop_log(steady)[said:] and time.time(), 60, "the new loop runs")
        first, second = steady.ticks_after(began - 0.5, 2)
    for entry in (first, second):
        assert all(desired(entry)[role] >= floor[role] for role in ROLES), entry["decision"]
    assert not watch.below(floor)
    assert ("starting without memory" in loop_log(steady)[said:]) == (damage is not None)
    json.loads(memory.read_text(encoding="utf-8"))  # a good one again


def test_sigterm_ends_the_loop_cleanly(steady: Demo, waiting: Waiting) -> None:
    said = len(steady.stderr)
    process = psutil.Process(steady.kill("loop", signal.SIGTERM))
    waiting(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, 8, "the loop ends")
    waiting(lambda: "loop ended (exit code 0)" in steady.stderr[said:], 15, "with exit code 0")
    assert "tidegate ends" in loop_log(steady)
    waiting(lambda: steady.get("status", "/readyz").ok, 60, "another loop runs")


def test_replicas_that_talk_nonsense(steady: Demo, watching: type[Watch]) -> None:
    """One prefill replica answers garbage, one decode replica hangs, another one's every number is NaN."""
    floor = steady.grow(MUCH, AT_LEAST)
    pods = {
        role: [one["pod"] for one in told["replicas"] if one["state"] == "ready"]
        for role, told in steady.pool()["roles"].items()
    }
    faults = {pods["prefill"][0]: "garbage", pods["decode"][0]: "hang", pods["decode"][1]: "nan"}
    loop = steady.pid("loop")
    began = time.time()
    with watching(steady) as watch:
        break_replicas(steady, faults)
        steady.tell_fleet("/load", {"factor": LITTLE})
        # 18 s: longer than the 12 s after which a lower plan would be followed.
        last = steady.ticks_after(began, 9)[-1]
        checked = steady.command("check")
    for role, broken in (("prefill", 1), ("decode", 2)):
        reporting, ready = heard(last, role)
        assert reporting == ready - broken
    assert not watch.below(floor)
    assert steady.pid("loop") == loop, "no crash"
    assert checked.returncode == 1, checked.stdout
    problems = [line for line in checked.stdout.splitlines() if line.startswith("PROBLEM")]
    assert {line.split()[1].rstrip(":") for line in problems} == {"demo/llama-8b/prefill", "demo/llama-8b/decode"}
    break_replicas(steady, dict.fromkeys(faults, "none"))
    # Scrapes come every second, so that the second tick at the latest has a whole one.
    _, second = steady.ticks_after(time.time(), 2)
    assert not blind(second)
    for role in ROLES:
        reporting, ready = heard(second, role)
        assert reporting >= ready > 0, role


def break_replicas(demo: Demo, faults: dict[str, str]) -> None:
    for pod, kind in faults.items():
        demo.tell_fleet("/fault", {"pod": pod, "kind": kind})


def test_nothing_shrank_while_prometheus_was_away(outage: Outage, waiting: Waiting) -> None:
    """Told after the fact: by Prometheus' own samples, which outlive it, and by the journal."""
    demo = outage.demo
    waiting(lambda: "prometheus ended (exit code -9)" in demo.stderr, 75, "Prometheus is started again after 60 s")
    back = float(waiting(lambda: seen_twice_at(demo, outage.at + 50), 60, "every replica is scraped twice again"))
    assert back - outage.at >= 59
    _, second = demo.ticks_after(back, 2)
    assert not blind(second)
    outage.watch.stop()
    assert not outage.watch.below(outage.floor, until=back), "and held until it was seen that less would do"
    ticks = [entry for entry in demo.journal() if outage.at + TICK_S < entry["decision"]["at"] < outage.at + 58]
    assert len(ticks) > 20, "it ticked on"
    assert all(blind(entry) == list(ROLES) for entry in ticks)
    assert demo.pid("loop") == outage.loop, "the loop lived through it"
    assert {demo.ask_hpa(role).status_code for role in ROLES} == {200}
    assert demo.get("status", "/status.json").json().get("failure") is None


def seen_twice_at(demo: Demo, since: float) -> float | None:
    """When, after `since`, Prometheus first had two good samples of every replica within 8 s, the loop's window."""
    asked = {"query": SCRAPED, "start": since, "end": time.time(), "step": 0.5}
    rows = demo.get("prometheus", "/api/v1/query_range", params=asked).json()["data"]["result"]
    return next((float(at) for at, count in rows[0]["values"] if float(count) >= 2), None) if rows else None


def test_a_prometheus_that_hangs_is_as_good_as_gone(
    losing_prometheus: Demo, watching: type[Watch], waiting: Waiting
) -> None:
    """SIGSTOP: connections are accepted by the kernel and never answered."""
    demo = losing_prometheus
    floor = demo.grow(MUCH, AT_LEAST)
    with watching(demo) as watch:
        stopped = demo.kill("prometheus", signal.SIGSTOP)
        demo.tell_fleet("/load", {"factor": LITTLE})
        # A tick whose look began just before may still have been answered.
        entries = demo.ticks_after(time.time() + TICK_S, 3, 60)
        assert all(blind(entry) == list(ROLES) for entry in entries)
        messages = [demo.ask_hpa(role) for role in ROLES]
        assert {answer.status_code for answer in messages} == {503}
        assert all("is blind: prometheus" in answer.json()["message"] for answer in messages)
        os.kill(stopped, signal.SIGCONT)
        awake = time.time()
        back = float(waiting(lambda: seen_twice_at(demo, awake), 60, "every replica is scraped twice again"))
        _, second = demo.ticks_after(back, 2)
        assert not blind(second)
    assert not watch.below(floor)


def test_both_end_with_a_summary_after_all_that(losing_prometheus: Demo, steady: Demo) -> None:
    for demo in (losing_prometheus, steady):
        demo.process.send_signal(signal.SIGTERM)
    lost, told = losing_prometheus.end(40), steady.end(40)
    assert lost["restarts"] == 1
    assert lost["blind_ticks"] > 25
    assert told["restarts"] == 5
    assert told["ticks"] > 25
    assert "Traceback" not in loop_log(steady) + loop_log(losing_prometheus)
    assert losing_prometheus.left_over() == steady.left_over() == []

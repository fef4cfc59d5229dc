"""`tidegate demo` as its user knows it: the summary, the API and the page while it runs, Ctrl-C.

Three demonstrations run side by side, because most of their time is waiting: through Prometheus, by direct scraping,
and with no Prometheus on PATH.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.e2e.conftest import Demo

pytestmark = pytest.mark.e2e

SECONDS = 60


@pytest.fixture(scope="module")
def plain(start_demo: Callable[..., Demo]) -> Demo:
    return start_demo("--seconds", str(SECONDS), "--json")


@pytest.fixture(scope="module")
def scraping(start_demo: Callable[..., Demo]) -> Demo:
    return start_demo("--seconds", "30", "--json", "--source", "scrape")


@pytest.fixture(scope="module")
def without_prometheus(start_demo: Callable[..., Demo], tmp_path_factory: pytest.TempPathFactory) -> Demo:
    empty = tmp_path_factory.mktemp("path")
    return start_demo("--seconds", "10", "--json", path=str(empty))


@pytest.fixture(scope="module", autouse=True)
def all_started(scraping: Demo, without_prometheus: Demo) -> None:
    """These two run while the first tests look at the plain one."""


def looks_right(told: dict[str, Any], seconds: float, source: str) -> None:
    """The promised keys with the right types and plausible values."""
    assert told["source"] == source
    # One tick every 2 s; the first starts before the clock does, and a busy machine may lose a few.
    assert isinstance(told["ticks"], int)
    assert seconds / 2 * 0.6 <= told["ticks"] <= seconds / 2 + 3
    assert isinstance(told["decisions"], int)
    assert 1 <= told["decisions"] <= 2 * told["ticks"]
    assert isinstance(told["blind_ticks"], int)
    assert 0 <= told["blind_ticks"] <= 2, "nothing was broken, so at most the first looks are without rates"
    assert isinstance(told["slo_attainment"], float)
    assert 0.0 <= told["slo_attainment"] <= 1.0
    assert told["seconds"] == pytest.approx(seconds, abs=5)
    # At least 1 + 1 and at most 8 + 10 replicas of one GPU each, from the fleet's start to its end.
    assert isinstance(told["gpu_seconds"], float)
    assert 2 * seconds <= told["gpu_seconds"] <= 18 * (told["fleet_seconds"] + 25), "25 s: replicas drain for 20"
    assert told["gpu_seconds"] == pytest.approx(
        sum(role["gpu_seconds"] for pool in told["pools"] for role in pool["roles"].values())
    )
    assert told["restarts"] == 0


def test_an_hpa_gets_its_value_over_verified_tls(plain: Demo) -> None:
    for role in ("prefill", "decode"):
        answer = plain.ask_hpa(role)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert (body["kind"], body["apiVersion"]) == ("ExternalMetricValueList", "external.metrics.k8s.io/v1beta1")
        (item,) = body["items"]
        assert item["metricName"] == "tidegate_desired_replicas"
        assert item["metricLabels"] == {"tidegate.dev/workload": "llama-8b", "tidegate.dev/role": role}
        assert 1 <= int(item["value"]) <= 10
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", item["timestamp"])


def test_the_api_is_discovered_and_refuses_what_it_does_not_have(plain: Demo) -> None:
    listed = plain.get("api", "/apis/external.metrics.k8s.io/v1beta1").json()
    assert listed["kind"] == "APIResourceList"
    assert [resource["name"] for resource in listed["resources"]]
    missing = plain.ask_hpa("prefill", metric="no_such_metric")
    assert missing.status_code == 404
    assert (missing.json()["kind"], missing.json()["reason"]) == ("Status", "NotFound")
    assert "no_such_metric" in missing.json()["message"]
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(plain.url("api", "/apis"), timeout=5)  # without the CA


def test_the_deployments_follow_what_is_served(
    plain: Demo, waiting: Callable[[Callable[[], Any], float, str], Any]
) -> None:
    """In the ramp wishes grow; served value, HPA and deployment must agree once a wish has stood for a few seconds."""

    def agree() -> bool:
        served = {role: int(plain.ask_hpa(role).json()["items"][0]["value"]) for role in ("prefill", "decode")}
        roles = plain.pool()["roles"]
        followed = {name: role["wanted"] for name, role in roles.items()}
        arrived = {name: role["ready"] for name, role in roles.items()}
        return sum(served.values()) > 4 and served == followed == arrived

    waiting(agree, SECONDS, "more than the 2 + 2 replicas of the start are served, wanted and ready")


def test_the_page_is_served_with_all_it_draws(
    plain: Demo, waiting: Callable[[Callable[[], Any], float, str], Any]
) -> None:
    page = plain.get("status", "/")
    assert page.status_code == 200
    assert page.headers["Content-Type"].startswith("text/html")
    assert "<title>Tidegate</title>" in page.text
    assert f"page={plain.url('status', '')}" in plain.stderr, "the address is printed"
    waiting(
        lambda: all(len(points) > 2 for points in plain.status()["history"].values()), SECONDS, "three ticks are kept"
    )
    status = plain.status()
    assert {role["key"] for role in status["roles"]} == {"demo/llama-8b/prefill", "demo/llama-8b/decode"}
    for role in status["roles"]:
        assert role["desired"] >= 1
        assert role["velocity"]["tokens"] > 0
        points = status["history"][role["key"]]
        assert len(points) > 2
        assert all(len(point) == 6 for point in points)
    for entry in status["said"]:
        assert entry["text"].startswith(entry["key"])
        assert entry["brief"]


def test_the_page_draws_its_charts(plain: Demo) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("no browser to look at the page with (Debian package: chromium)")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        tab = started.new_page()
        failures: list[str] = []
        tab.on("pageerror", lambda error: failures.append(str(error)))
        tab.goto(plain.url("status", "/"))
        tab.wait_for_selector("body[data-drawn=yes]")
        tab.wait_for_selector("#load-chart canvas")
        tab.wait_for_selector("#count-chart canvas")
        assert tab.locator("#roles tr").count() == 2, "prefill and decode"
        assert "Load between" in tab.inner_text("#load-text")
        started.close()
    assert failures == []


@pytest.mark.parametrize("wait_for", ["demo runs", "starting"])
def test_ctrl_c_ends_everything_cleanly(
    wait_for: str, start_demo: Callable[..., Demo], waiting: Callable[[Callable[[], Any], float, str], Any]
) -> None:
    """As a terminal sends it: to the whole process group, and impatiently. In mid-run and while parts still start."""
    demo = start_demo("--seconds", "300", "--json", "--source", "scrape", workdir=False)
    waiting(lambda: wait_for in demo.stderr, 90, f"{wait_for!r} is said")
    for _ in range(3):
        os.killpg(demo.process.pid, signal.SIGINT)
    told = demo.end(30)
    assert (told["source"], told["restarts"]) == ("scrape", 0)
    assert told["seconds"] < 300
    assert (told["ticks"] > 0) == (wait_for == "demo runs")
    assert "Traceback" not in demo.stderr
    assert demo.left_over() == []
    assert {entry.name for entry in demo.folder.iterdir()} == {"stdout", "stderr"}, "its temporary folder is gone"


def test_a_killed_conductor_leaves_no_process_behind(
    start_demo: Callable[..., Demo], waiting: Callable[[Callable[[], Any], float, str], Any]
) -> None:
    if sys.platform != "linux" or shutil.which("setpriv") is None:
        pytest.skip("needs util-linux' setpriv, by which the kernel ends the children")
    demo = start_demo("--seconds", "300", "--json", "--source", "scrape")
    assert len(demo.processes["pids"]) == 3
    demo.process.kill()
    demo.process.wait()
    waiting(lambda: demo.left_over() == [], 20, "fleet and loop end by themselves")


def test_a_second_demonstration_does_not_trample_on_the_first(plain: Demo) -> None:
    plain.processes  # noqa: B018 - waits until the first runs
    done = subprocess.run(
        [sys.executable, "-m", "autoscaler.cli", "demo", "--seconds", "10", "--json", "--workdir", str(plain.folder)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert "another demonstration runs there" in done.stderr


def read_until(terminal: int, pattern: bytes | None) -> bytes:
    """What is drawn until it has the pattern, or until nobody draws any more."""
    drawn, deadline = b"", time.monotonic() + 120
    while not (pattern and re.search(pattern, drawn)):
        assert time.monotonic() < deadline, drawn[-3000:]
        if select.select([terminal], [], [], 0.2)[0]:
            try:
                drawn += os.read(terminal, 65_536)
            except OSError:  # how Linux says that the other side is closed
                break
    return drawn


def test_the_live_view_in_a_terminal(tmp_path: Path) -> None:
    """Ctrl-C typed at the terminal ends it; what was drawn fits the width, and the words of the end are on stdout."""
    said = tmp_path / "said"
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    environment = {**os.environ, "TERM": "xterm", "TMPDIR": str(tmp_path)}
    for fixed in ("COLUMNS", "LINES", "NO_COLOR"):
        environment.pop(fixed, None)
    command = [sys.executable, "-m", "autoscaler.cli", "demo", "--seconds", "300", "--source", "scrape"]
    with said.open("wb") as out:
        process = subprocess.Popen(command, stdin=theirs, stdout=out, stderr=theirs, env=environment, process_group=0)
    os.close(theirs)
    try:
        drawn = read_until(ours, rb"[4-9] ticks through scrape")
        os.killpg(process.pid, signal.SIGINT)
        drawn += read_until(ours, None)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    # Ctrl-C may fall into the middle of a character.
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn.decode(errors="replace"))
    for shown in (
        "Tidegate demo",
        "page",
        "http://127.0.0.1:",
        "wanted",
        "starting",
        "ready",
        "decisions, newest first",
    ):
        assert shown in text
    assert re.search(r"prefill [\d,]+ ", re.sub(r" +", " ", text))
    assert max(len(line.rstrip("\r")) for line in text.splitlines()) <= 120
    assert "Traceback" not in text
    words = said.read_text(encoding="utf-8")
    assert "ticks through scrape" in words
    assert "requests finished" in words
    assert "GPU-seconds" in words
    assert [entry.name for entry in tmp_path.iterdir()] == ["said"]


def test_without_prometheus_it_scrapes_and_says_so(without_prometheus: Demo) -> None:
    looks_right(without_prometheus.end(120), 10, "scrape")
    assert "no `prometheus` on PATH" in without_prometheus.stderr
    assert not any(Path(line.split()[0]).name == "prometheus" for line in without_prometheus.left_over())


def test_direct_scraping_gives_the_same_summary(scraping: Demo) -> None:
    looks_right(scraping.end(120), 30, "scrape")
    assert "no `prometheus` on PATH" not in scraping.stderr
    assert scraping.left_over() == []


def test_a_minute_through_prometheus_ends_with_one_json_object(plain: Demo) -> None:
    told = plain.end(120)
    looks_right(told, SECONDS, "prometheus")
    assert told["ticks"] == len(plain.journal()), "every tick is in the journal"
    assert told["pools"][0]["roles"]["decode"]["peak"] > 2, "the day has a plateau of four times the calm"
    assert plain.stdout.startswith("{")
    assert plain.stdout.rstrip().endswith("}")
    assert "demo runs" in plain.stderr
    assert "Traceback" not in plain.stderr
    assert plain.left_over() == []

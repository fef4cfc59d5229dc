"""The page in a real headless Chromium: data is drawn, keys work, nothing fails in the console."""

from __future__ import annotations

import io
import shutil
from typing import TYPE_CHECKING, Any

import matplotlib.image
import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here (Debian package chromium)"),
    pytest.mark.timeout(120),
]
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield started
        started.close()


@pytest.fixture
def tab(browser: Any, page: str) -> Iterator[Any]:
    """The page, drawn; what its console says ends the test."""
    opened = browser.new_page(viewport={"width": 1500, "height": 1000})
    said: list[str] = []
    opened.on("console", lambda message: said.append(message.text) if message.type in {"error", "warning"} else None)
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.goto(page)
    opened.wait_for_selector("body[data-drawn=yes]")
    opened.wait_for_selector("#load-chart canvas")
    yield opened
    opened.close()
    assert said == []


def pixels(tab: Any, selector: str) -> np.ndarray:
    """What is on the screen there: height x width x 3, 0..1."""
    shot = tab.locator(selector).screenshot()
    return np.asarray(matplotlib.image.imread(io.BytesIO(shot), format="png"))[:, :, :3]


def near(image: np.ndarray, colour: tuple[int, int, int]) -> int:
    """Pixels within a few shades of a colour."""
    return int((np.abs(image - np.array(colour) / 255).max(axis=2) < 0.08).sum())


def test_data_is_drawn(tab: Any) -> None:
    load = pixels(tab, "#load-chart")
    # The load's line (#125e8a) crosses a chart some 600 pixels wide, and so does the dashed forecast (#a1260d).
    assert near(load, (0x12, 0x5E, 0x8A)) > 600
    assert near(load, (0xA1, 0x26, 0x0D)) > 200
    assert near(pixels(tab, "#count-chart"), (0x12, 0x5E, 0x8A)) > 600
    assert tab.locator("#roles tr").count() == 2
    assert "ready" in tab.locator("#map [role=listitem]").first.get_attribute("aria-label")
    assert "Load between" in tab.inner_text("#load-text")
    assert "upper bound ahead" in tab.inner_text("#load-chart")
    assert "start 96.0 % of 95.0 %" in tab.inner_text("#figures")


def test_an_empty_state_draws_nothing_where_data_would_be(browser: Any, page: str) -> None:
    """The check above can fail: without the data there is no line."""
    opened = browser.new_page(viewport={"width": 1500, "height": 1000})
    opened.route("**/api/overview*", lambda route: route.fulfill(json={"at": None, "roles": []}))
    opened.goto(page)
    opened.wait_for_selector("body[data-drawn=yes]")
    assert near(pixels(opened, "#load-chart"), (0x12, 0x5E, 0x8A)) == 0
    assert "Waiting for the first tick" in opened.inner_text("#state")
    opened.close()


def test_a_role_is_chosen_and_a_reason_opened_by_keyboard(tab: Any) -> None:
    tab.locator("#roles button", has_text="prod/code/colocated").focus()
    tab.keyboard.press("Enter")
    expect(tab.locator("#role-title")).to_contain_text("prod/code")
    expect(tab.locator("#role-title")).to_be_focused()
    assert "no engine reports" in tab.inner_text("#why")
    tab.locator("#decisions summary").first.focus()
    tab.keyboard.press("Enter")
    expect(tab.locator("#decisions")).to_contain_text("Next best: preempt one gang instead at 12.50 instead of 10.00")


def test_every_control_has_a_name_and_charts_say_themselves(tab: Any) -> None:
    unnamed = tab.evaluate(
        """[...document.querySelectorAll('button,input,select,[role=img],section')].filter(node => {
             const by = node.getAttribute('aria-labelledby');
             const told = by ? by.split(' ').map(id => document.getElementById(id)?.textContent || '').join('') : '';
             return !(node.getAttribute('aria-label') || told.trim() || node.textContent.trim() ||
                      (node.labels && node.labels.length) || (node.id === 'live'));
           }).map(node => node.outerHTML.slice(0, 80))"""
    )
    assert unnamed == []
    assert tab.evaluate("document.documentElement.lang") == "en"


def test_dark_is_dark_and_still_drawn(tab: Any) -> None:
    light = pixels(tab, "#load-chart").mean()
    tab.click("#theme")
    tab.wait_for_selector("html[data-theme=dark]")
    dark = pixels(tab, "#load-chart")
    assert light > 0.8
    assert dark.mean() < 0.35
    assert near(dark, (0x6B, 0xB6, 0xE8)) > 600


def test_the_slider_replays_the_journal(tab: Any) -> None:
    tab.locator("#tick").fill("5")
    expect(tab.locator("#state")).to_contain_text("replay")
    expect(tab.locator("#tick-at")).to_contain_text("tick 5 of")
    tab.click("#live")
    expect(tab.locator("#state")).to_contain_text("live")


def test_what_if_is_simulated_and_drawn(tab: Any) -> None:
    tab.fill("input[name=growth]", "3")
    tab.fill("input[name=hours]", "1")
    tab.locator("#whatif button").press("Enter")
    tab.wait_for_selector("#whatif-chart canvas", timeout=60_000)
    assert "What if:" in tab.inner_text("#whatif-text")
    assert near(pixels(tab, "#whatif-chart"), (0xA1, 0x26, 0x0D)) > 100


def test_filtering_hides_what_does_not_match(tab: Any) -> None:
    tab.fill("#filter", "chat")
    expect(tab.locator("#roles tr:visible")).to_have_count(1)


def test_loans_and_network_domains_are_shown(browser: Any, page: str) -> None:
    opened = browser.new_page(viewport={"width": 1500, "height": 1000})
    loan = {"key": "Job/train/big", "accelerator": "h100", "gpus": 8, "since": 1.7e9, "until": None}
    domain = {"name": "rack-1", "accelerator": "h100", "nodes": 4, "gpus": 32, "free": 8, "serving": 8, "other": 16}

    def more(route: Any) -> None:
        told = route.fetch().json()
        told["stocks"] = [
            {"accelerator": "h100", "prepared": 8, "preemptible": 16, "lent": 8, "coming": 0, "to_buy": 2}
        ]
        route.fulfill(
            json={**told, "loans": [loan, {**loan, "key": "Job/old", "until": 1.7e9 + 60}], "domains": [domain]}
        )

    opened.route("**/api/overview*", more)
    opened.goto(page)
    expect(opened.locator("#loans tr")).to_have_count(2)
    expect(opened.locator("#loans")).to_contain_text("not yet")
    expect(opened.locator("#stocks")).to_contain_text("h100")
    assert opened.locator("#stocks td").all_inner_texts() == ["h100", "8", "16", "8", "0", "2"]
    assert "32 GPUs on 4 nodes, 8 serving, 16 other, 8 free" in (
        opened.locator("#domains [role=listitem]").get_attribute("aria-label") or ""
    )
    opened.close()


def test_a_narrow_window_does_not_scroll_sideways(tab: Any) -> None:
    tab.set_viewport_size({"width": 420, "height": 900})
    tab.wait_for_timeout(400)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 420

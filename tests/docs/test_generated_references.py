"""The generated pages are up to date, and hold what there is."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from autoscaler.cli import app

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).parents[2]


def script(name: str) -> ModuleType:
    """A script of the repository, imported."""
    spec = importlib.util.spec_from_file_location(f"scripts_{name}", ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("name", "page"), [("generate_commands", "commands.md"), ("generate_metrics", "metrics.md")])
def test_a_generated_page_is_up_to_date(name: str, page: str) -> None:
    committed = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert committed == script(name).reference(), f"run: python scripts/{name}.py"


def test_every_command_is_in_the_reference_with_every_option_of_its_help() -> None:
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## `tidegate ([^`]+)`\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    assert {"run", "check", "backtest", "whatif", "manifests hpa", "manifests ca-bundle"} <= sections.keys()
    for name, section in sections.items():
        done = CliRunner().invoke(
            app, [*name.split(), "--help"], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
        )
        assert done.exit_code == 0, name
        plain = re.sub(r"\x1b\[[0-9;]*m", "", done.output)
        offered = set(re.findall(r"^[│ *]*(--[a-z-]+)", plain, re.MULTILINE)) - {"--help"}
        assert offered, name
        assert {option for option in offered if f"`{option}`" not in section} == set(), name


def test_no_two_metrics_share_a_name_and_all_are_ours() -> None:
    names = [family.name for family in script("generate_metrics").families()]
    assert len(names) == len(set(names)) > 30
    assert all(name.startswith("tidegate_") for name in names)


@pytest.mark.parametrize("file", ["alerts/tidegate.yaml", "dashboards/tidegate.json"])
def test_alerts_and_the_dashboard_ask_only_for_metrics_of_the_reference(file: str) -> None:
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `(tidegate_\w+)`", page, re.MULTILINE))
    text = (ROOT / "config" / file).read_text(encoding="utf-8")
    asked = set(re.findall(r"\btidegate_[a-z_]+\b", text)) - {"tidegate_test"}
    assert len(asked) > 10
    assert {name for name in asked if re.sub(r"_(bucket|sum|count)$", "", name) not in listed} == set()

"""What the docs show works: command lines parse, examples are valid, links lead somewhere, figures say whence."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import typer
import yaml
from typer.testing import CliRunner

from autoscaler import build
from autoscaler.cli import app
from autoscaler.configuration import load
from autoscaler.manifest_lint import Severity, lint
from autoscaler.manifest_yaml import read
from autoscaler.simulator.requests import DemandSeries
from autoscaler.whatif import from_trace, load_study

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
FRONT = [ROOT / "README.md", ROOT / "README.zh.md"]
MARKER = re.compile(r"^\s*<!-- check: (?P<kind>[a-z]+) -->\s*$")
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\s*$")
KINDS = {"configuration", "manifests", "study", "yaml"}
SHELL = {"console", "bash", "sh"}
COMMAND_WORDS = ("tidegate", "make", "python", "kubectl", "promtool", "xdg-open", ".venv/bin/tidegate")


@dataclass(frozen=True)
class Block:
    """A fenced block: where it begins, its language, the marker before it, and its text without the indent."""

    page: Path
    line: int
    language: str
    marker: str | None
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page."""
    found, lines, at = [], page.read_text(encoding="utf-8").splitlines(), 0
    while at < len(lines):
        opened = FENCE.match(lines[at])
        if opened is None:
            at += 1
            continue
        marked = MARKER.match(lines[at - 1]) if at else None
        end = next((n for n in range(at + 1, len(lines)) if lines[n].strip() == "```"), None)
        assert end is not None, f"{page.name}:{at + 1}: a fence that does not end"
        indent = len(opened["indent"])
        text = "".join(f"{line[indent:]}\n" for line in lines[at + 1 : end])
        found.append(Block(page, at + 1, opened["language"], marked["kind"] if marked else None, text))
        at = end + 1
    return found


def command_lines(block: Block) -> list[str]:
    """The commands of a shell block: lines after `$ ` in a console, all but comments elsewhere."""
    if block.language == "console":
        return [line[2:] for line in block.text.splitlines() if line.startswith("$ ")]
    return [line for line in block.text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def problem(line: str) -> str | None:
    """What is wrong with one command line; None when it could be run here."""
    words = shlex.split(line, comments=True)
    words = words[: next((n for n, word in enumerate(words) if word in {">", "|", "&&"}), len(words))]
    tool = Path(words[0]).name if words else ""
    if tool == "tidegate":
        return _unparsed(words[1:])
    if tool == "make":
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
        asked = [word for word in words[1:] if "=" not in word]
        return next((f"make has no target {word!r}" for word in asked if word not in targets), None)
    if tool == "python":
        script = words[1]
        there = script == "-m" or (ROOT / script).is_file()
        return None if there else f"there is no {script}"
    if tool == "kubectl" and "-k" in words:
        folder = words[words.index("-k") + 1]
        return None if (ROOT / folder / "kustomization.yaml").is_file() else f"there is no {folder}"
    if tool == "promtool":
        return next((f"there is no {word}" for word in words if "/" in word and not (ROOT / word).exists()), None)
    return None


def _unparsed(words: list[str]) -> str | None:
    """Why `tidegate` would not take these words: an unknown command or option, a bad value."""
    command: Any = typer.main.get_command(app)
    rest = words
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        if rest[0] not in command.commands:
            return f"no command {rest[0]!r}"
        command, rest = command.commands[rest[0]], rest[1:]
    if hasattr(command, "commands") and not rest:  # a group alone prints its help
        return None
    try:
        command.make_context("tidegate", list(rest))
    except typer.Exit:  # --help, --version
        return None
    except Exception as error:  # noqa: BLE001 - whatever the parser calls it, its sentence is the finding
        return f"{type(error).__name__}: {getattr(error, 'message', '') or error}"
    return None


SHOWN = [block for page in [*PAGES, *FRONT] if page.exists() for block in blocks(page)]


@pytest.mark.parametrize("block", [block for block in SHOWN if block.language in SHELL], ids=str)
def test_every_command_line_shown_could_be_run(block: Block) -> None:
    lines = command_lines(block)
    assert lines, f"{block}: a shell block without a command; lines of a console begin with `$ `"
    assert [f"{line}: {why}" for line in lines if (why := problem(line)) is not None] == []


@pytest.mark.parametrize("page", [*PAGES, *FRONT], ids=lambda page: page.name)
def test_every_tidegate_command_in_running_text_parses(page: Path) -> None:
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    spans = [re.sub(r"\s+", " ", span) for span in re.findall(r"(?<!`)`(tidegate [^`]+)`(?!`)", text)]
    complete = [span for span in spans if "…" not in span and "|" not in span and " COMMAND" not in span]
    wrong = [f"{span}: {why}" for span in complete if (why := problem(span)) and "Missing" not in why]
    assert wrong == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("tidegate whatif --trace d.csv --plot p.png", None),
        ("tidegate whatif --traces d.csv", "--traces"),
        ("tidegate wahtif", "no command"),
        ("tidegate manifests hpa --trigger push", "--trigger"),
        ("tidegate explain -n 0", "greater than or equal to 1"),
        ("make rnu", "no target"),
        ("python scripts/nothing.py", "there is no"),
        ("kubectl apply -k config/kustomize/overlays/nowhere", "there is no"),
    ],
)
def test_a_command_that_could_not_be_run_is_found(line: str, said: str | None) -> None:
    found = problem(line)
    assert found is None if said is None else (found is not None and said in found)


@pytest.mark.parametrize("block", [b for b in SHOWN if b.language == "yaml" and b.page in PAGES], ids=str)
def test_every_example_in_yaml_is_valid(block: Block, tmp_path: Path) -> None:
    assert block.marker in KINDS, f"{block}: write <!-- check: {' | '.join(sorted(KINDS))} --> above it"
    file = tmp_path / "example.yaml"
    file.write_text(block.text, encoding="utf-8")
    if block.marker == "configuration":  # what `tidegate check` does before it looks at anything
        loaded = load(file, environment={})
        with loaded.placing():
            assert build.parts(loaded.settings).settings.pools
    elif block.marker == "manifests":
        findings = lint(read(block.text, str(file)), None)
        assert [str(found) for found in findings if found.severity is Severity.ERROR] == []
    elif block.marker == "study":
        study, scenarios = load_study(file)
        assert study.seeds >= 1
        assert scenarios
    else:
        assert all(isinstance(made, dict) for made in yaml.safe_load_all(block.text))


@pytest.mark.parametrize("page", [*PAGES, *FRONT], ids=lambda page: page.name)
def test_every_link_within_the_repository_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    inside = [link for link in links if not re.match(r"[a-z]+:", link)]
    missing = [link for link in inside if not _leads_somewhere(page, unquote(link))]
    assert missing == []


def _leads_somewhere(page: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    if not target.exists() or not anchor:
        return target.exists()
    titles = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
    return anchor in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_named_in_running_text_exists(page: Path) -> None:
    """Paths into the repository, such as `config/alerts/tidegate.yaml`."""
    named = re.findall(r"`((?:config|docs|scripts|bench|notebooks|tests)/[\w./-]+)`", page.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / name).exists() and "your" not in name] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_measured_figure_names_the_command_that_measured_it(page: Path) -> None:
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for paragraph in re.split(r"\n\s*\n", text):
        if re.search(r"\bMeasured\b", paragraph) is None or re.search(r"\d", paragraph) is None:
            continue
        commands = [span for span in re.findall(r"`([^`]+)`", paragraph) if span.startswith(COMMAND_WORDS)]
        assert commands, f"{page.name}: {paragraph[:100]!r} names no command"
        assert [f"{one}: {why}" for one in commands if (why := problem(one)) is not None] == []


def test_the_chinese_readme_shows_no_command_that_the_english_one_does_not() -> None:
    english, chinese = ("".join(map(_spaceless, _commands_of(page))) for page in FRONT)
    assert len(chinese) > 100
    assert [line for line in map(_spaceless, _commands_of(FRONT[1])) if line not in english] == []


def _commands_of(page: Path) -> list[str]:
    shown = [line for block in blocks(page) if block.language in SHELL for line in command_lines(block)]
    return [*shown, *re.findall(r"^\| (`tidegate [^`]+`) \|", page.read_text(encoding="utf-8"), re.MULTILINE)]


def _spaceless(line: str) -> str:
    return re.sub(r"\s+", "", line.partition("#")[0])


@pytest.mark.parametrize(
    ("page", "line", "lint_line"),
    [
        ("hpa.md", "tidegate manifests hpa -c tidegate.yaml --out hpas", "tidegate check --manifests hpas/"),
        ("keda.md", "tidegate manifests keda -c tidegate.yaml --out scaledobjects", "tidegate check --manifests scale"),
        ("tutorial.md", "tidegate manifests hpa -c tidegate.yaml --out scalers", "tidegate check --manifests scalers/"),
    ],
)
def test_the_manifests_of_the_guides_are_written_where_they_say_and_pass_the_linter(
    page: str, line: str, lint_line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = blocks(ROOT / "docs" / page)
    lines = [one for block in shown if block.language in SHELL for one in command_lines(block)]
    linted = next(one for one in lines if one.startswith(lint_line))
    configured = [
        block for block in [*shown, *blocks(ROOT / "docs" / "tutorial.md")] if block.marker == "configuration"
    ]
    (tmp_path / "tidegate.yaml").write_text(configured[0].text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert line in lines
    for one in (line, linted):
        done = CliRunner().invoke(app, shlex.split(one)[1:])
        assert done.exit_code == 0, done.output
    assert "0 findings" in done.output


def test_the_study_and_the_csv_shown_can_be_asked_for(tmp_path: Path) -> None:
    page = blocks(ROOT / "docs" / "capacity-planning.md")
    table = next(block.text for block in page if block.text.startswith("t_s,"))
    (tmp_path / "demand.csv").write_text(table, encoding="utf-8")
    example = CliRunner().invoke(app, ["whatif", "--example"])
    (tmp_path / "study.yaml").write_text(example.output, encoding="utf-8")
    assert load_study(tmp_path / "study.yaml")[0].history is not None
    (load,) = from_trace(tmp_path / "demand.csv").pools.values()
    assert isinstance(load, DemandSeries)
    assert load.requests.tolist() == [579, 547]
    assert load.bin_s == 300

"""A tiny trace, and the installed command run as a user would."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

from autoscaler import cli

if TYPE_CHECKING:
    from collections.abc import Callable


class Command(Protocol):
    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture(scope="session")
def tidegate_path() -> str:
    beside = Path(sys.executable).with_name("tidegate")
    found = str(beside) if beside.exists() else shutil.which("tidegate")
    if found is None:
        pytest.skip("the tidegate command is not installed")
    return found


@pytest.fixture
def tidegate(tidegate_path: str, tmp_path: Path) -> Command:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.upper().startswith("TIDEGATE_")}
        environment |= {"COLUMNS": "200", "NO_COLOR": "1"}
        command = [tidegate_path, *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
        )

    return run


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the command within this process, sees it end with 2 and nothing on stdout, and returns what it said."""

    def run(*arguments: str) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["tidegate", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        told = capsys.readouterr()
        assert (ended.value.code, told.out) == (2, "")
        return told.err

    return run


@pytest.fixture
def trace(tmp_path: Path) -> str:
    """Two minutes of a request a second: 500 tokens in, 50 out."""
    rows = "".join(f"{second},500,50\n" for second in range(120))
    (tmp_path / "tiny.csv").write_text("arrival_s,input_tokens,output_tokens\n" + rows, encoding="utf-8")
    return "tiny.csv"

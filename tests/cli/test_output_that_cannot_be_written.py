"""Where stdout is full, closed or no longer read, a command says so or ends quietly; never with a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = (sys.executable, "-m", "autoscaler.cli")
FULL = Path("/dev/full")


@pytest.mark.parametrize("arguments", [("plan", "--schema"), ("config", "--schema"), ("--help",)])
def test_a_full_disk_is_said_once(arguments: tuple[str, ...]) -> None:
    if not FULL.exists():
        pytest.skip("no /dev/full on this system")
    with FULL.open("w") as full:
        ended = subprocess.run((*COMMAND, *arguments), stdout=full, stderr=subprocess.PIPE, check=False, timeout=60)
    assert ended.stderr.decode().splitlines() == [
        "error: cannot write: No space left on device; the output is not whole"
    ]
    assert ended.returncode == 1


def test_a_closed_stdout_is_no_error() -> None:
    code = f"import os, sys; os.close(1); os.execv({sys.executable!r}, {[*COMMAND, '--help']!r})"
    ended = subprocess.run((sys.executable, "-c", code), stderr=subprocess.PIPE, check=False, timeout=60)
    assert (ended.stderr, ended.returncode) == (b"", 0)


def test_a_reader_that_leaves_is_no_error() -> None:
    near, far = os.pipe()
    os.close(near)
    try:
        arguments = (*COMMAND, "plan", "--schema")
        ended = subprocess.run(arguments, stdout=far, stderr=subprocess.PIPE, check=False, timeout=60)
    finally:
        os.close(far)
    assert (ended.stderr, ended.returncode) == (b"", 0)

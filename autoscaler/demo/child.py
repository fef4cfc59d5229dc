"""A child process of the demonstration, with its log in a file."""

from __future__ import annotations

import shutil
import subprocess
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class Child:
    """A process that can be started again; stopped by SIGTERM, and by SIGKILL when that does not help."""

    def __init__(self, name: str, command: list[str], folder: Path) -> None:
        self.name = name
        self._command = [*_dies_with_us(), *command]
        self._folder = folder
        self._log = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._found_dead: float | None = None

    def start(self) -> None:
        """Start it, appending to its log. It gets a process group of its own: Ctrl-C is for the conductor alone."""
        with self._log.open("ab") as file:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        self._found_dead = None

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return None if self._process is None else self._process.returncode

    @property
    def pid(self) -> int | None:
        """Its process ID."""
        return None if self._process is None else self._process.pid

    def dead_for(self) -> float:
        """Seconds since it was first found dead."""
        if self._found_dead is None:
            self._found_dead = time.monotonic()
        return time.monotonic() - self._found_dead

    def log_tail(self, lines: int = 15) -> str:
        """The end of its log."""
        try:
            return "\n".join(self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
        except OSError as error:
            return f"(no log: {error})"

    def ask_to_end(self) -> None:
        """Send SIGTERM and return at once; `stop` waits."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def stop(self, patience_s: float) -> None:
        """End it and wait; one that does not end in time is killed. Safe to call again."""
        if self._process is None:
            return
        self.ask_to_end()
        try:
            self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _dies_with_us() -> list[str]:
    """A prefix that has the kernel send SIGTERM to the child when the conductor is killed; the process ID stays.

    `setpriv` is in util-linux, which every Debian has; without it a conductor killed by SIGKILL leaves children behind.
    """
    setpriv = shutil.which("setpriv")
    return [] if setpriv is None else [setpriv, "--pdeathsig", "TERM", "--"]

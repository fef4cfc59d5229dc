"""One process at a time writes a file of the loop's state.

Two would interleave their journals and undo each other's memory. The lock is the kernel's (`flock` on `<file>.lock`),
so it ends with its process, however that ends.
"""

from __future__ import annotations

import fcntl
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class SoleWriter:
    """Whether this process may write `path`; asked before each write, so that it follows when the other has ended."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = path.with_name(path.name + ".lock")
        self._descriptor: int | None = None

    def may_write(self) -> bool:
        """True when no other process writes the file. Raises OSError: the folder cannot be written."""
        if self._descriptor is not None:
            return True
        self._lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except OSError:  # a file system without locks cannot tell; writing is then as it is without this class
            os.close(descriptor)
            return True
        self._descriptor = descriptor
        with suppress(OSError):  # a full disk: the lock holds without its holder's name
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        return True

    def other(self) -> str:
        """Who writes it, as it introduced itself."""
        try:
            return self._lock.read_text(encoding="utf-8", errors="replace").strip() or "another process"
        except OSError:
            return "another process"

    def close(self) -> None:
        """Let others write; safe to call twice."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

"""Files others read while we write them: replaced whole or not at all."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def write_json(path: Path, value: object) -> None:
    """Write `value` as JSON to `path` by renaming a finished file over it.

    Raises:
        OSError: the folder is missing or not writable.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    unfinished.replace(path)

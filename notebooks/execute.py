"""Executes every notebook of this folder from a clean kernel, in order; the files stay as they are (no outputs kept)."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

FOLDER = Path(__file__).resolve().parent
LIMIT_S = 180


def main() -> int:
    """Run them all; 1 when one failed or carries outputs."""
    bad = 0
    for path in sorted(FOLDER.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        if any(cell.get("outputs") for cell in notebook.cells):
            print(f"FAILED  {path.name}: holds outputs; clear them before committing")
            bad += 1
            continue
        began = time.monotonic()
        client = NotebookClient(
            notebook, timeout=LIMIT_S, kernel_name="python3", resources={"metadata": {"path": FOLDER}}
        )
        try:
            client.execute()
        except CellExecutionError as error:
            print(f"FAILED  {path.name}: {error}")
            bad += 1
        else:
            print(f"ok      {path.name}  {time.monotonic() - began:.1f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

"""Executes the notebooks of this folder from a clean kernel, in order; the files stay as they are (no outputs kept)."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

FOLDER = Path(__file__).resolve().parent
LIMIT_S = 180


def main() -> int:
    """Run them; 1 when one failed or carries outputs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="beginnings of names, such as 03; all by default")
    parser.add_argument("--keep", type=Path, help="write executed copies, with their pictures, into this folder")
    given = parser.parse_args()
    chosen = [path for path in sorted(FOLDER.glob("*.ipynb")) if path.name.startswith(tuple(given.names or [""]))]
    if not chosen:
        parser.error(f"no notebook begins with {' or '.join(given.names)}")
    if given.keep is not None and not given.keep.is_dir():
        parser.error(f"--keep {given.keep}: there is no such folder")
    return 0 if all([_executed(path, given.keep) for path in chosen]) else 1


def _executed(path: Path, keep: Path | None) -> bool:
    """Whether one runs to its end, said on a line."""
    notebook = nbformat.read(path, as_version=4)
    if any(cell.get("outputs") for cell in notebook.cells):
        print(f"FAILED  {path.name}: holds outputs; clear them before committing")
        return False
    began = time.monotonic()
    client = NotebookClient(notebook, timeout=LIMIT_S, kernel_name="python3", resources={"metadata": {"path": FOLDER}})
    try:
        client.execute()
    except CellExecutionError as error:
        print(f"FAILED  {path.name}: {error}")
        return False
    if keep is not None:
        nbformat.write(notebook, keep / path.name)
    print(f"ok      {path.name}  {time.monotonic() - began:.1f} s", flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main())

"""Builds the wheel, installs it where no source is in sight, and runs the command from it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"autoscaler", "forecasting", "optimizer", "metrics_adapter"}
NEEDED = (
    "autoscaler/shipped/dashboard/dashboard.html",
    "autoscaler/shipped/dashboard/uplot.js",
    "autoscaler/shipped/dashboard/uplot.LICENSE",
    "autoscaler/shipped/profiles/lead-times.yaml",
    "autoscaler/py.typed",
)


def main() -> None:
    """Build, look inside, install, run."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        subprocess.run(
            [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, str(ROOT)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        wheel = next(place.glob("tidegate-*.whl"))
        names = set(zipfile.ZipFile(wheel).namelist())
        tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
        if tops != PACKAGES:
            raise SystemExit(f"the wheel holds {sorted(tops)} instead of {sorted(PACKAGES)}")
        absent = [name for name in NEEDED if name not in names]
        if absent:
            raise SystemExit(f"the wheel lacks {absent}")
        venv.create(place / "env", with_pip=True, system_site_packages=False)
        python = place / "env" / "bin" / "python"
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run(
            [*pip, "--constraint", str(_constraints(ROOT / "requirements.lock", place)), str(wheel)], check=True
        )
        command = place / "env" / "bin" / "tidegate"
        demo = ["demo", "--seconds", "12", "--json", "--source", "scrape"]
        for arguments in (["--version"], ["config", "--schema"], demo):
            done = subprocess.run([str(command), *arguments], check=True, cwd=place, capture_output=True, text=True)
            print(f"ok  tidegate {' '.join(arguments)}: {len(done.stdout)} characters")


def _constraints(lock: Path, place: Path) -> Path:
    """The lock's versions without its hashes (a wheel just built has none)."""
    lines = [
        line.split(" \\")[0]
        for line in lock.read_text(encoding="utf-8").splitlines()
        if line and not line.startswith((" ", "#"))
    ]
    made = place / "constraints.txt"
    made.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return made


if __name__ == "__main__":
    main()

"""Small loads that a whole study runs on in a second."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from autoscaler import whatif

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def loads() -> whatif.Loads:
    return whatif.generated("gen:spike,rate=8,at=300,height=3,width=300,duration=900", seed=1)


@pytest.fixture
def demand_csv(tmp_path: Path) -> Path:
    """Two hours of bins of a minute: 6 requests/s of 1,000 + 200 tokens, twice as many in the second hour."""
    rows = ["t_s,requests,input_tokens,output_tokens"]
    for minute in range(120):
        requests = 360 if minute < 60 else 720
        rows.append(f"{minute * 60},{requests},{requests * 1000},{requests * 200}")
    path = tmp_path / "demand.csv"
    path.write_text("\n".join(rows) + "\n")
    return path

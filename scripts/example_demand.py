"""Prints a week of made-up demand per five minutes, in the CSV format that `tidegate whatif --trace` reads.

A day's wave, quiet weekends and noise; the mean request is that of Azure's published conversation trace.

python scripts/example_demand.py > demand.csv
"""

from __future__ import annotations

import numpy as np

BIN_S, DAY_S = 300, 86_400
RATE = 4.0
"""Requests/s, mean of a working day."""
PROMPT, OUTPUT = 1155, 211
"""Tokens of the mean request."""


def main() -> None:
    """Print it."""
    random = np.random.default_rng(5)
    begins = np.arange(0, 7 * DAY_S, BIN_S)
    wave = 1 + 0.6 * np.sin(2 * np.pi * (begins / DAY_S - 0.35))
    week = np.where(begins // DAY_S % 7 >= 5, 0.6, 1.0)
    requests = BIN_S * RATE * wave * week * np.exp(0.08 * random.standard_normal(len(begins)))
    print("t_s,requests,input_tokens,output_tokens")
    for at, count in zip(begins.tolist(), np.rint(requests).astype(int).tolist(), strict=True):
        print(f"{at},{count},{count * PROMPT},{count * OUTPUT}")


if __name__ == "__main__":
    main()

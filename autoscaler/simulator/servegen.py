"""ServeGen's published aggregates: demand per bin, and requests drawn from the rates and burstiness of its clients.

Files lie side by side and share a prefix: PREFIX_agg_10min.csv.gz (totals), PREFIX_client_rate_rps_10min.csv.gz,
PREFIX_client_cv_10min.csv.gz, PREFIX_client_tokens_6h.csv.gz and PREFIX_pooled_token_quantiles.csv.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from autoscaler.errors import BadSettings
from autoscaler.simulator.demand_files import MeanTokens, bins, ignored_note, series
from autoscaler.simulator.renewal import first_wait, points
from autoscaler.simulator.requests import LARGEST_TOKENS, MOST_REQUESTS, DemandSeries, Workload
from autoscaler.simulator.servegen_lengths import ClientLengths, read_lengths
from autoscaler.simulator.tables import Ascending, Column, amount, header, read_table
from autoscaler.simulator.trace_files import BadTrace, title

if TYPE_CHECKING:
    from pathlib import Path

    from autoscaler.simulator.requests import Floats

_RATES = "_client_rate_rps"
_GRID = (np.arange(2000) + 0.5) / 2000
_LEVELS = (0.0, 0.5, 0.95, 0.99, 1.0)


@dataclass(frozen=True, slots=True, eq=False)
class Clients:
    """Rates and burstiness per bin (rows) and client (columns).

    Attributes:
        name: of the file of rates.
        times: seconds at which each bin begins.
        bin_s: width of a bin in seconds.
        rates: requests/s.
        cvs: coefficient of variation of the gaps between a client's requests; 0 where it was not measured.
        lengths: token lengths per client and window.
    """

    name: str
    times: Floats
    bin_s: float
    rates: Floats
    cvs: Floats
    lengths: ClientLengths


def read_servegen(path: Path, means: MeanTokens) -> DemandSeries:
    """Demand per bin, from the totals (`agg`) with its estimated tokens, or summed over the clients' rates.

    Raises:
        BadTrace: for the first thing that is wrong.
    """
    names = header(path)
    if len(names) > 1 and names[1].casefold() == "c0":
        return _client_demand(read_clients(path))
    wanted = {"requests": "requests", "input_tokens": "est_input_tokens", "output_tokens": "est_output_tokens"}
    columns = [Column(name, amount) for name in wanted.values()]
    table = read_table(path, [Column("t_s", Ascending()), *columns, Column("active_clients", amount, required=False)])
    given = {name: table.numbers(column) for name, column in wanted.items()}
    notes = list(ignored_note(table))
    if table.has("active_clients"):
        gaps = int(np.count_nonzero(table.numbers("active_clients") == 0))
        notes += [f"{gaps} bins without clients (gaps in the collection) taken as no demand"] if gaps else []
    return series(title(path), table, given, means, tuple(notes))


def read_clients(path: Path) -> Clients:
    """The clients behind a file of rates and the files beside it.

    Raises:
        BadTrace: for the first thing that is wrong in any of them, or one that is missing.
    """
    prefix, mark, _ = path.name.partition(_RATES)
    if not mark:
        raise BadTrace(path, f"has a column per client but is not named *{_RATES}*; give the file of rates")
    times, bin_s, rates = _wide(path)
    cv_path = _beside(path, f"{prefix}_client_cv")
    cv_times, _, cvs = _wide(cv_path)
    if cvs.shape != rates.shape or not np.array_equal(times, cv_times):
        raise BadTrace(cv_path, f"has {cvs.shape[0]} bins of {cvs.shape[1]} clients; {path.name} has {rates.shape}")
    lengths = read_lengths(
        _beside(path, f"{prefix}_client_tokens"), _beside(path, f"{prefix}_pooled_token_quantiles"), rates.shape[1]
    )
    return Clients(title(path), times, bin_s, rates, cvs, lengths)


def _beside(path: Path, start: str) -> Path:
    found = sorted(path.parent.glob(f"{start}*.csv*"))
    if not found:
        raise BadTrace(path, f"needs {start}*.csv or .csv.gz beside it")
    return found[0]


def _wide(path: Path) -> tuple[Floats, float, Floats]:
    clients = header(path)[1:]
    table = read_table(path, [Column("t_s", Ascending()), *(Column(name, amount) for name in clients)])
    times, bin_s = bins(table, "t_s")
    return times, bin_s, np.column_stack([table.numbers(name) for name in clients])


def _client_demand(clients: Clients) -> DemandSeries:
    requests = clients.rates * clients.bin_s
    window = clients.lengths.window(clients.times)
    mean = clients.lengths.means[:, window].transpose(1, 0, 2)  # bins, clients, (input, output)
    prompt, output = (np.sum(requests * mean[:, :, side], axis=1) for side in (0, 1))
    notes = ("summed over the clients at their mean lengths",)
    return DemandSeries(clients.name, clients.times, clients.bin_s, requests.sum(axis=1), prompt, output, notes)


def servegen_requests(path: Path, seed: int, t0: float, t1: float, share: float = 1.0) -> Workload:
    """Requests of the seconds t0 to t1, drawn client by client as ServeGen composes its workloads.

    Each client is a Gamma renewal process with the rate and coefficient of variation of its bin (Poisson where none
    was measured). Lengths follow the client's published median, P95 and P99 of the window, log-linear in between,
    from median^2/P95 to twice the P99, and scaled so that the published mean holds.

    Args:
        path: the file of client rates.
        seed: same seed, same requests.
        t0: first second; time 0 of the result.
        t1: last second.
        share: all rates are multiplied by it, > 0.

    Raises:
        BadTrace: for the first thing that is wrong in the files.
        BadSettings: a window outside the file, a share <= 0, or more than MOST_REQUESTS expected.
    """
    clients = read_clients(path)
    end = len(clients.times) * clients.bin_s
    if not 0 <= t0 < t1 <= end:
        raise BadSettings((f"seconds {t0} to {t1} are not in {clients.name}; it covers 0 to {end:g}",))
    starts, ends = np.maximum(clients.times, t0), np.minimum(clients.times + clients.bin_s, t1)
    widths = np.maximum(ends - starts, 0.0)
    areas = clients.rates * share * widths[:, None]
    if not share > 0 or areas.sum() > MOST_REQUESTS:
        problem = (
            f"share {share} of {clients.name} would be {areas.sum():,.0f} requests; it must be 0..{MOST_REQUESTS:,}"
        )
        raise BadSettings((problem + ": take a shorter window or a smaller share",))
    drawn = [_client(clients, areas, starts, widths, at, seed) for at in range(areas.shape[1])]
    arrival_s, prompt, output = (np.concatenate(part) for part in zip(*drawn, strict=True))
    order = np.argsort(arrival_s, kind="stable")
    notes = [f"drawn from client rates, seconds {t0:g} to {t1:g}, seed {seed}"]
    notes += [f"{share:g} of the published rate"] if share != 1 else []
    return Workload(
        clients.name, arrival_s[order] - t0, prompt[order], output[order], notes=tuple(notes), horizon_s=t1 - t0
    )


def _client(
    clients: Clients, areas: Floats, starts: Floats, widths: Floats, at: int, seed: int
) -> tuple[Floats, np.ndarray, np.ndarray]:
    """Arrival, prompt and output of one client's requests; it has a random stream of its own."""
    random = np.random.default_rng([seed, at])
    parts: list[Floats] = [np.empty(0)]
    wait: float | None = None
    for row in np.flatnonzero(areas[:, at] > 0):
        area, cv = float(areas[row, at]), float(clients.cvs[row, at]) or 1.0
        wait = first_wait(cv, random) if wait is None else wait
        positions, wait = points(area, cv, wait, random)
        # Rounding must not carry the last position of a bin beyond its end.
        parts.append(np.minimum(starts[row] + positions / area * widths[row], starts[row] + widths[row]))
    arrival_s = np.concatenate(parts)
    lengths = np.empty((len(arrival_s), 2), dtype=np.int64)
    window = clients.lengths.window(arrival_s)
    for one in np.unique(window):
        inside = window == one
        for side in (0, 1):
            quantiles = clients.lengths.quantiles[at, one, side]
            mean = float(clients.lengths.means[at, one, side])
            lengths[inside, side] = _draw(quantiles, mean, int(inside.sum()), random)
    return arrival_s, lengths[:, 0], lengths[:, 1]


def _draw(quantiles: Floats, mean: float, count: int, random: np.random.Generator) -> np.ndarray:
    """Token counts with the shape of these P50, P95, P99 and this mean."""
    p50, p95, p99 = quantiles
    knots = np.log(np.maximum.accumulate(np.maximum([p50 * p50 / max(p95, 1.0), p50, p95, p99, 2 * p99], 1.0)))
    shape_mean = float(np.exp(np.interp(_GRID, _LEVELS, knots)).mean())
    values = np.exp(np.interp(random.random(count), _LEVELS, knots)) * (mean / shape_mean)
    return np.clip(np.rint(values), 1, LARGEST_TOKENS).astype(np.int64)

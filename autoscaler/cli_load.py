"""The recorded load that `tidegate backtest` and `tidegate forecast` are given: a file, or a range of a Prometheus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from autoscaler.errors import BadSettings
from autoscaler.settings_types import masked

if TYPE_CHECKING:
    from pathlib import Path

    from forecasting.series import Floats

PrometheusAddress = Annotated[
    str | None, typer.Option("--prometheus", help="Instead of a file: address of a Prometheus.", show_default=False)
]
Query = Annotated[
    str | None, typer.Option("--query", help="With --prometheus: PromQL of one series.", show_default=False)
]
Start = Annotated[
    float | None,
    typer.Option("--start", help="With --prometheus: Unix seconds (default: 14 days back).", show_default=False),
]
End = Annotated[
    float | None, typer.Option("--end", help="With --prometheus: Unix seconds (default: now).", show_default=False)
]


@dataclass(frozen=True, slots=True)
class Recorded:
    """Where the load is: columns of a file, or a query to a Prometheus over a span of Unix seconds."""

    file: Path | None
    time: str
    value: str | None
    prometheus: str | None
    query: str | None
    span: tuple[float | None, float | None]

    def read(self, file_option: str, step_s: float) -> tuple[Floats, Floats]:
        """Times and values; a Prometheus is asked for one every `step_s`.

        Args:
            file_option: what the command calls its file, for the message.
            step_s: seconds.

        Raises:
            BadSettings: neither or both of file and address, an option that lacks its partner, or what the reading of
                the file or the query says.
        """
        from autoscaler import load_files  # noqa: PLC0415 - pandas loads in half a second; --help should not wait
        from metrics_adapter.prometheus_http import PrometheusAccess  # noqa: PLC0415 - likewise

        if (self.file is None) == (self.prometheus is None):
            raise BadSettings((f"give {file_option} or --prometheus, one of them",))
        if self.file is not None:
            if self.value is None:
                raise BadSettings(("--value: name the column of loads",))
            return load_files.read_load(self.file, self.time, self.value)
        if self.query is None or self.prometheus is None:
            raise BadSettings(("--prometheus needs --query, the PromQL of one series",))
        try:
            access = PrometheusAccess(self.prometheus, timeout_s=60.0)
        except ValueError as error:
            raise BadSettings((f"--prometheus {masked(self.prometheus)}: {error}",)) from None
        return load_files.query_load(access, self.query, *self.span, step_s)

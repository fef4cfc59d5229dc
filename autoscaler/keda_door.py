"""KEDA's door, from settings: the external scaler with the certificate of the metrics API."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from autoscaler.errors import BadSettings
from metrics_adapter.keda import Scaler
from metrics_adapter.keda_server import GrpcTls, KedaServer, KedaServerError
from metrics_adapter.tls import TlsError, self_signed

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    from autoscaler.settings import ServingSettings
    from metrics_adapter.board import Board
    from metrics_adapter.keda import ScalerMeter


def keda_door(
    serving: ServingSettings, board: Board, meter: ScalerMeter, stack: ExitStack, clock: Callable[[], float]
) -> KedaServer | None:
    """The scaler, listening until the stack unwinds; None where it is not configured.

    Raises:
        BadSettings: its address is taken, a certificate cannot be used.
    """
    if serving.keda is None:
        return None
    own = serving.keda
    try:
        server = KedaServer(Scaler(board, meter, own.strict), own.host, own.port, _tls(serving, clock), clock)
        return stack.enter_context(server)
    except (KedaServerError, TlsError) as error:
        raise BadSettings((f"serving.keda: {error}",)) from None


def _tls(serving: ServingSettings, clock: Callable[[], float]) -> GrpcTls | None:
    keda, tls = serving.keda, serving.tls
    if keda is None or not keda.tls:
        return None
    client_ca = Path(keda.client_ca_file) if keda.client_ca_file is not None else None
    if tls.cert_file is not None and tls.key_file is not None:
        return GrpcTls(Path(tls.cert_file), Path(tls.key_file), client_ca)
    directory = Path(tls.directory)
    made = self_signed(directory, tls.names, clock())
    return GrpcTls(made.cert, made.key, client_ca, lambda: self_signed(directory, tls.names, clock()))

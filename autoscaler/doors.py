"""The doors of `tidegate run`: the metrics APIs over TLS, the plain port, KEDA's scaler, and the dashboard on them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import APIRouter
from fastapi.responses import JSONResponse, RedirectResponse

from autoscaler import authority
from autoscaler.authority import is_loopback
from autoscaler.errors import BadSettings
from autoscaler.keda_door import keda_door
from metrics_adapter.custom import CustomMetrics
from metrics_adapter.discovery import Discovery, Documents
from metrics_adapter.exposition import Exposition, Telemetry
from metrics_adapter.external import ExternalMetrics
from metrics_adapter.gate_meter import GateCounts
from metrics_adapter.keda_rest import KedaRest
from metrics_adapter.server import Server, ServerError, compose
from metrics_adapter.tls import SelfSigned, ServingCertificate, TlsError, self_signed

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from contextlib import ExitStack

    from autoscaler.dashboard.api import Dashboard
    from autoscaler.publishing import Status
    from autoscaler.settings import Settings
    from metrics_adapter.board import Board
    from metrics_adapter.identity import Trust
    from metrics_adapter.keda_server import KedaServer


@dataclass(frozen=True, slots=True)
class Doors:
    """The servers, for their addresses."""

    api: Server
    status: Server
    keda: KedaServer | None = None


@dataclass(frozen=True, slots=True)
class Shown:
    """What is to be seen through them."""

    board: Board
    telemetry: Telemetry
    status: Status
    dashboard: Dashboard
    unready: Callable[[], str | None] | None = None
    """Why what is shown should not be asked for now, beside what the doors know themselves."""


def metrics_apis(
    settings: Settings, board: Board, telemetry: Telemetry
) -> tuple[Documents, ExternalMetrics, CustomMetrics]:
    """Discovery and the metrics APIs. Raises ValueError for groups that cannot be."""
    serving = settings.serving
    shown = Discovery(serving.discovery)
    external = ExternalMetrics(board, telemetry, serving.group, shown)
    custom = CustomMetrics(board, telemetry, serving.custom_group, shown)
    documents = Documents((external.described(), custom.described()))
    return documents, external, custom


def _certificate(
    settings: Settings, clock: Callable[[], float], trust: Callable[[], Trust | None] | None = None
) -> ssl.SSLContext:
    tls = settings.serving.tls
    try:
        if tls.cert_file is not None and tls.key_file is not None:
            return ServingCertificate(Path(tls.cert_file), Path(tls.key_file), clock, trust=trust).context
        made = bootstrap(settings, clock())
        return ServingCertificate(made.cert, made.key, clock, lambda: bootstrap(settings, clock()), trust).context
    except TlsError as error:
        raise BadSettings((f"serving.tls: {error}",)) from None


def open_doors(settings: Settings, shown: Shown, stack: ExitStack, clock: Callable[[], float]) -> Doors:
    """Open them until the stack unwinds.

    The dashboard is on the plain port where only this machine reaches it or where anybody may look, and on the metrics
    API wherever that asks who is there (or is for this machine alone).

    Raises:
        BadSettings: an address is taken, a certificate cannot be used, nobody said who may ask.
    """
    serving = settings.serving
    board, telemetry = shown.board, shown.telemetry
    try:
        documents, external, custom = metrics_apis(settings, board, telemetry)
        gated = authority.opened(serving, GateCounts(telemetry.registry), stack)
        gate, follower = gated or (None, None)
        reasons = [why for why in (follower.unready if follower else None, shown.unready) if why is not None]
        own = Exposition(board, telemetry, lambda: next((said for why in reasons if (said := why())), None)).router()
        routers = [documents.router(), own, KedaRest(board, telemetry).router()]
        pages = shown.dashboard.router()
        if gate is not None or is_loopback(serving.host) or serving.dashboard == "open":
            routers.append(pages)
        app = compose(routers, telemetry, gate, [external, custom])
        certificate = _certificate(settings, clock, follower.trust if follower else None)
        api = Server(app, serving.host, serving.port, certificate)
        plain_pages = [status_router(shown.status)]
        if serving.dashboard == "open" or is_loopback(serving.status_host):
            plain_pages.append(pages)
        plain = Server(compose([own, *plain_pages], telemetry), serving.status_host, serving.status_port)
        scaler = keda_door(serving, board, telemetry, stack, clock)
        stack.enter_context(api)
        stack.enter_context(plain)
    except (ServerError, ValueError) as error:
        raise BadSettings((f"serving: {error}",)) from None
    return Doors(api, plain, scaler)


def bootstrap(settings: Settings, now: float) -> SelfSigned:
    """The certificate of our own making, made where there is none yet; its caBundle is what an APIService needs.

    Raises:
        BadSettings: the certificate is another's (`serving.tls.cert_file`), or the folder cannot be written.
    """
    tls = settings.serving.tls
    if tls.cert_file is not None:
        problem = f"serving.tls.cert_file: {tls.cert_file} is not signed by Tidegate; use the CA that signed it"
        raise BadSettings((f"{problem} (`tidegate manifests apiservice --ca-file FILE`)",))
    try:
        return self_signed(Path(tls.directory), tls.names, now)
    except TlsError as error:
        raise BadSettings((f"serving.tls: {error}",)) from None


def status_router(status: Status) -> APIRouter:
    """The state as one JSON document, and the way to the dashboard."""
    router = APIRouter(redirect_slashes=False)

    async def home(_request: object) -> RedirectResponse:
        return RedirectResponse("dashboard/")

    async def data(_request: object) -> JSONResponse:
        return JSONResponse(status.plain(), headers={"Cache-Control": "no-store"})

    router.add_route("/", home, methods=["GET", "HEAD"])
    router.add_route("/status.json", data, methods=["GET", "HEAD"])
    return router


def announce(path: Path, doors: Doors) -> None:
    """Write the servers' addresses as JSON. Raises BadSettings."""
    part = path.with_name(path.name + ".part")
    addresses = {"api": doors.api.url, "status": doors.status.url}
    if doors.keda is not None:
        addresses["keda"] = doors.keda.address
    try:
        part.write_text(json.dumps(addresses), encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise BadSettings((f"--ready-file: cannot be written: {error}",)) from None

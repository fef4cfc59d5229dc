"""KEDA's door as the configuration opens it: off unless configured, TLS by default, errors that name the setting."""

import socket
import time
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from autoscaler.configuration import load
from autoscaler.errors import BadSettings
from autoscaler.keda_door import keda_door
from autoscaler.settings import Settings
from metrics_adapter.board import Board, Limits
from metrics_adapter.exposition import Telemetry
from metrics_adapter.keda import SERVICE
from metrics_adapter.keda_server import KedaServer


def settings(folder: Path, keda: str) -> Settings:
    file = folder / "tidegate.yaml"
    tls = f"tls: {{directory: {folder / 'tls'}}}"
    file.write_text(f"pools: [{{name: a, roles: {{colocated: {{max_replicas: 1}}}}}}]\nserving: {{{tls}{keda}}}\n")
    return load(file).settings


def opened(made: Settings, stack: ExitStack) -> KedaServer | None:
    board = Board(Limits(30, 60), time.time)
    return keda_door(made.serving, board, Telemetry(board), stack, time.time)


def test_it_is_shut_unless_configured(tmp_path: Path) -> None:
    with ExitStack() as stack:
        assert opened(settings(tmp_path, ""), stack) is None


def test_it_has_the_certificate_of_the_metrics_api(tmp_path: Path) -> None:
    with ExitStack() as stack:
        server = opened(settings(tmp_path, ", keda: {port: 0}"), stack)
        assert server is not None
        ca = (tmp_path / "tls" / "ca.crt").read_bytes()
        with grpc.secure_channel(server.address, grpc.ssl_channel_credentials(ca)) as channel:
            assert channel.unary_unary(f"/{SERVICE}/GetMetricSpec")(b"", timeout=10)


def test_plain_text_where_asked_for(tmp_path: Path) -> None:
    with ExitStack() as stack:
        server = opened(settings(tmp_path, ", keda: {port: 0, tls: false}"), stack)
        assert server is not None
        with grpc.insecure_channel(server.address) as channel:
            assert channel.unary_unary(f"/{SERVICE}/GetMetricSpec")(b"", timeout=10)


def test_what_cannot_be_opened_names_the_setting(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, ExitStack() as stack:
        made = settings(tmp_path, f", keda: {{port: {taken.getsockname()[1]}}}")
        with pytest.raises(BadSettings, match=r"serving\.keda: 127\.0\.0\.1"):
            opened(made, stack)
    with ExitStack() as stack, pytest.raises(BadSettings, match=r"serving\.keda: .*absent\.pem"):
        opened(settings(tmp_path, ", keda: {port: 0, client_ca_file: absent.pem}"), stack)
    with pytest.raises(BadSettings, match="client_ca_file: needs tls: true"):
        settings(tmp_path, ", keda: {tls: false, client_ca_file: ca.pem}")

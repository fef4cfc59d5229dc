"""`tidegate run` as a process of its own, over the test API server, asked over HTTP."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException, HTTPSConnection
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

import requests
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kube_server import ApiServer

Json = dict[str, Any]


def configuration(api: ApiServer, folder: Path, engine: str, **more: Any) -> Path:
    """A configuration file with its kubeconfig; the engine is the only one, in namespace `serving`."""
    folder.mkdir(parents=True, exist_ok=True)
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(api.kubeconfig()))
    said: Json = {
        "pools": [],
        "source": {
            "kind": "scrape",
            "window_s": 5.0,
            "scrape": {"targets": [{"url": engine, "labels": {"namespace": "serving"}}], "interval_s": 0.5},
        },
        "serving": {"port": 0, "status_port": 0, "tls": {"directory": str(folder / "tls")}},
        "loop": {
            "interval_s": 1.25,  # a decision's timestamp counts seconds: no two may share one
            "memory_file": str(folder / "memory.json"),
            "journal_file": str(folder / "journal.jsonl"),
        },
        "cluster": {
            "enabled": True,
            "kubeconfig": str(kubeconfig),
            "namespace": "default",
            "audit_file": str(folder / "actions.jsonl"),
            "election": {"duration_s": 3.0, "renew_deadline_s": 2.0, "retry_s": 0.4},
            "token_pools": {"enabled": True, "settle_s": 0.2, "status_every_s": 1.0},
        },
    }
    for name, value in more.items():
        said[name] = {**said[name], **value} if isinstance(value, dict) else value
    file = folder / "tidegate.yaml"
    file.write_text(yaml.safe_dump(said))
    return file


@dataclass
class Running:
    """The process and its folder."""

    process: subprocess.Popen[bytes]
    folder: Path

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    @property
    def addresses(self) -> Json:
        file = self.folder / "ready.json"
        assert self.process.poll() is None, self.log
        return dict(json.loads(file.read_text())) if file.exists() else {}

    def status(self, path: str) -> requests.Response:
        return requests.get(self.addresses["status"] + path, timeout=5)

    def wish(self, pool: str, role: str = "colocated") -> tuple[int, Json | None]:
        """HTTP status and the item that an HPA would get. The connection is closed even where the process dies."""
        query = urlencode({"labelSelector": f"tidegate.dev/workload={pool},tidegate.dev/role={role}"})
        path = "/apis/external.metrics.k8s.io/v1beta1/namespaces/serving/tidegate_desired_replicas"
        where = urlsplit(self.addresses["api"])
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # self-made, on loopback
        with closing(HTTPSConnection(str(where.hostname), where.port, timeout=5, context=context)) as connection:
            try:
                connection.request("GET", f"{path}?{query}")
                answer = connection.getresponse()
                body = json.loads(answer.read())
            except (OSError, HTTPException, ValueError) as error:
                raise requests.ConnectionError(str(error)) from None
        items = body.get("items") or [] if answer.status == HTTPStatus.OK else []
        return answer.status, items[0] if items else None


@contextmanager
def running(file: Path) -> Iterator[Running]:
    """The process, ended at the end."""
    folder = file.parent
    command = [
        sys.executable,
        "-m",
        "autoscaler.cli",
        "run",
        "-c",
        str(file),
        "--ready-file",
        str(folder / "ready.json"),
    ]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "HOME": str(folder)})
    try:
        yield Running(process, folder)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

"""`tidegate manifests …` and the `--manifests` half of `tidegate check`."""

from __future__ import annotations

import base64
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoscaler.configuration import load
from autoscaler.errors import BadSettings

if TYPE_CHECKING:
    from autoscaler.manifests import Object
    from autoscaler.settings import Settings

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", envvar="TIDEGATE_CONFIG", help="YAML configuration.", show_default=False),
]
OutOption = Annotated[
    Path | None, typer.Option("--out", "-o", help="Folder for one file per object; else stdout.", show_default=False)
]
PoolOption = Annotated[str | None, typer.Option(help="Only this pool (name or namespace/name).", show_default=False)]
WindowOption = Annotated[
    int, typer.Option(min=0, max=3600, help="Seconds the HPA itself waits before it shrinks; Tidegate waits already.")
]
NamespaceOption = Annotated[str, typer.Option(help="Where Tidegate runs.")]
ServiceOption = Annotated[str, typer.Option(help="Its Service.")]
EXIT_BAD = 2
PROMETHEUS_NOTE = """KEDA asks Prometheus, which scrapes Tidegate's /metrics (status port).
exported_namespace is the pool's namespace where the scrape sets a namespace of its own; with honor_labels: true
write namespace. The age in the query keeps an old wish from being obeyed; scrape at least every 15 s."""
CRD_NOTE = "Made by `tidegate manifests crd` from the settings of a pool; do not edit."

app = typer.Typer(
    help="Kubernetes objects, made from the configuration, that make replicas follow the wish exactly.",
    no_args_is_help=True,
)


def register(parent: typer.Typer) -> None:
    """Add the commands."""
    parent.add_typer(app, name="manifests")


@app.command()
def hpa(
    config: ConfigOption = None,
    pool: PoolOption = None,
    scale_to_zero: Annotated[
        bool, typer.Option("--scale-to-zero", help="Keep min_replicas 0; needs the gate HPAScaleToZero.")
    ] = False,
    down_window: WindowOption = 0,
    out: OutOption = None,
) -> None:
    """HorizontalPodAutoscalers on the external metric; Kubernetes 1.35, or the gate HPAConfigurableTolerance."""
    from autoscaler import manifests  # noqa: PLC0415 - --help should not wait for the servers' libraries

    roles = manifests.scaled(load(config).settings, pool)
    made = [manifests.hpa(of, to_zero=scale_to_zero, down_window_s=down_window) for of in roles]
    _write(made, out)


@app.command()
def keda(
    config: ConfigOption = None,
    pool: PoolOption = None,
    trigger: Annotated[
        str, typer.Option(help="external-push (KEDA 2.18 or later), external, metrics-api or prometheus.")
    ] = "external-push",
    namespace: NamespaceOption = "tidegate-system",
    service: ServiceOption = "tidegate",
    prometheus: Annotated[
        str, typer.Option(help="Address of the Prometheus that scrapes Tidegate, for that trigger.")
    ] = "http://prometheus.monitoring:9090",
    down_window: WindowOption = 0,
    out: OutOption = None,
) -> None:
    """ScaledObjects, with the TriggerAuthentication they need. Never together with an HPA for the same object."""
    from autoscaler import manifests  # noqa: PLC0415 - as above

    try:
        kind = manifests.TriggerKind(trigger)
    except ValueError:
        known = ", ".join(manifests.TriggerKind)
        raise BadSettings((f"--trigger {trigger!r}: use one of {known}",)) from None
    settings = load(config).settings
    place = manifests.Place(namespace, service, prometheus)
    roles = manifests.scaled(settings, pool)
    note = PROMETHEUS_NOTE if kind is manifests.TriggerKind.PROMETHEUS else ""
    _write(list(manifests.keda(settings, roles, kind, place, down_window)), out, note)


@app.command()
def apiservice(
    config: ConfigOption = None,
    namespace: NamespaceOption = "tidegate-system",
    service: ServiceOption = "tidegate",
    ca_file: Annotated[
        Path | None,
        typer.Option(help="CA (PEM) for caBundle; without it cert-manager fills it in.", show_default=False),
    ] = None,
    self_signed: Annotated[
        bool, typer.Option("--self-signed", help="caBundle of Tidegate's own certificate, made now if there is none.")
    ] = False,
    insecure: Annotated[bool, typer.Option("--insecure", help="insecureSkipTLSVerify, for trials only.")] = False,
    custom: Annotated[bool, typer.Option("--custom", help="The custom metrics API, too.")] = False,
    out: OutOption = None,
) -> None:
    """APIServices with Services and rights. Only one server may own a group: KEDA usually has the external one."""
    from autoscaler import manifests, manifests_api  # noqa: PLC0415 - as above

    settings = load(config).settings
    authority = None
    if self_signed + insecure + (ca_file is not None) > 1:
        raise BadSettings(("--ca-file, --self-signed, --insecure: give one of them; each says how we are trusted",))
    if self_signed:
        authority = _own_authority(settings).encode()
    if ca_file is not None:
        try:
            authority = ca_file.read_bytes()
        except OSError as error:
            raise BadSettings((f"--ca-file {ca_file}: cannot be read: {error.strerror}",)) from None
        if b"-----BEGIN CERTIFICATE-----" not in authority:
            raise BadSettings((f"--ca-file {ca_file}: holds no PEM certificate; give the CA's",))
    place = manifests.Place(namespace, service)
    _write(manifests_api.registration(settings, place, authority, insecure=insecure, custom=custom), out)


@app.command()
def crd(out: OutOption = None) -> None:
    """The CustomResourceDefinition of TokenPool: pools declared as objects (`cluster.token_pools`)."""
    from autoscaler.crd import definition  # noqa: PLC0415 - as above

    _write([definition()], out, CRD_NOTE)


@app.command("ca-bundle")
def ca_bundle(
    config: ConfigOption = None,
    pem: Annotated[bool, typer.Option("--pem", help="The certificate itself, not its base64.")] = False,
) -> None:
    """The caBundle (base64 PEM) of Tidegate's own CA, made now if there is none: for APIServices and KEDA's caCert."""
    own = _own_authority(load(config).settings)
    typer.echo(own if pem else base64.b64encode(own.encode()).decode("ascii"), nl=not pem)


def _own_authority(settings: Settings) -> str:
    from autoscaler.doors import bootstrap  # noqa: PLC0415 - as above

    return bootstrap(settings, time.time()).ca_bundle


def _write(made: list[Object], out: Path | None, note: str = "") -> None:
    from autoscaler import manifests  # noqa: PLC0415 - as above

    if out is None:
        typer.echo(manifests.text(made, note), nl=False)
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
        for one in made:
            meta = one["metadata"]
            parts = (one["kind"].lower(), meta.get("namespace"), meta["name"])
            file = out / f"{'-'.join(part for part in parts if part)}.yaml"
            file.write_text(manifests.text([one], note), encoding="utf-8")
            typer.echo(str(file))
    except OSError as error:
        raise BadSettings((f"--out {out}: cannot be written: {error.strerror}",)) from None


def check_manifests(files: list[Path], config: Path | None, *, as_json: bool) -> None:
    """Lint the files and print every finding as file:line; exit 2 when one is an error.

    Raises:
        BadSettings: a file that cannot be read, or is not YAML.
    """
    from autoscaler.manifest_lint import Severity, lint  # noqa: PLC0415 - as above
    from autoscaler.manifest_yaml import read  # noqa: PLC0415 - as above

    objects = [made for file in files for made in read(_text(file), str(file))]
    findings = lint(objects, load(config).settings if config is not None else None)
    wrong = any(finding.severity is Severity.ERROR for finding in findings)
    if as_json:
        plain = [{"file": f.file, "line": f.line, "severity": f.severity, "message": f.message} for f in findings]
        typer.echo(json.dumps({"ok": not wrong, "objects": len(objects), "findings": plain}, indent=2))
    else:
        for finding in findings:
            typer.echo(str(finding))
        scalers = sum(made.kind in {"HorizontalPodAutoscaler", "ScaledObject"} for made in objects)
        typer.echo(f"{len(objects)} objects, {scalers} of them HPAs or ScaledObjects, {len(findings)} findings")
    if wrong:
        raise typer.Exit(EXIT_BAD)


def _text(file: Path) -> str:
    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except OSError as error:
        raise BadSettings((f"--manifests {file}: cannot be read: {error.strerror}",)) from None
    except UnicodeDecodeError:
        raise BadSettings((f"--manifests {file}: is no UTF-8 text; expected YAML",)) from None

"""An account of a namespace with the rights that the manifests give Tidegate, feature by feature, and no others."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from kube_server import ApiServer
from site_kubelets import LEASES, PODS
from site_report import ACCOUNTS, BINDINGS, JOBS, ROLES

from autoscaler.cluster.api import Api, ApiError, Resource
from autoscaler.cluster.connection import connect
from autoscaler.cluster.preflight import allowed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kube_server import Request
    from site_of_tests import Site

Json = dict[str, Any]
RBAC = "rbac.authorization.k8s.io"
TOKENS = Resource("", "v1", "serviceaccounts", "TokenRequest")
RIGHTS = Path(__file__).resolve().parents[2] / "config" / "helm" / "tidegate" / "files" / "rights.yaml"
OWN = (
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "list", "create", "update"]},
    {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch", "create", "patch"]},
)
"""In Tidegate's own namespace, as the chart's Role has it."""
NEEDED = (
    ("create", ACCOUNTS, ""),
    ("create", ACCOUNTS, "token"),
    ("list create delete", ROLES, ""),
    ("list create delete", BINDINGS, ""),
    ("create", Resource(RBAC, "v1", "roles", "Role"), ""),
    ("create", Resource(RBAC, "v1", "rolebindings", "RoleBinding"), ""),
)
"""What making it takes, beside having the rights that are given."""


def rules(*features: str) -> list[Json]:
    """The chart's rules of these features."""
    said = yaml.safe_load(RIGHTS.read_text(encoding="utf-8"))
    return [rule for feature in features for rule in said[feature]]


@contextmanager
def account(site: Site, *features: str) -> Iterator[str]:
    """A kubeconfig of the account. Where no authorizer is there, the tests' own server is asked by the same rules."""
    given = rules(*features)
    if site.played is not None:
        with ApiServer(store=site.played.store, allows=_allowing(given, site.name)) as server:
            file = site.folder / "account"
            file.write_text(yaml.safe_dump(server.kubeconfig()))
            yield str(file)
        return
    _bound(site, given)
    kubeconfig = _kubeconfig(site)
    api = Api(connect(kubeconfig, None))
    try:
        site.eventually(lambda: _arrived(api, site.name), "the account's rights never arrived")
    finally:
        api.close()
    yield kubeconfig


def _arrived(api: Api, namespace: str) -> bool:
    """Whether the authorizer knows of them yet: it follows the objects with a little delay."""
    try:
        api.get(LEASES, namespace, "tidegate")
    except ApiError as error:
        if error.forbidden:
            return False
    try:
        return allowed(api, PODS, "", "list") and allowed(api, JOBS, "", "patch")
    except ApiError:
        return False


def _allowing(given: list[Json], own: str) -> Callable[[Request], bool]:
    def fits(rule: Json, asked: Request) -> bool:
        what = f"{asked.plural}/{asked.subresource}" if asked.subresource else asked.plural
        group = asked.kind.group if asked.kind is not None else ""
        return group in rule["apiGroups"] and what in rule["resources"] and asked.verb in rule["verbs"]

    def allows(asked: Request) -> bool:
        return any(fits(rule, asked) for rule in given) or (
            asked.namespace == own and any(fits(rule, asked) for rule in OWN)
        )

    return allows


def _bound(site: Site, given: list[Json]) -> None:
    meta = {"name": "tidegate", "namespace": site.name}
    subject = {"kind": "ServiceAccount", **meta}
    site.api.create(ACCOUNTS, site.name, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta})
    version = f"{RBAC}/v1"
    site.make(ROLES, {"apiVersion": version, "kind": "ClusterRole", "metadata": {"name": site.name}, "rules": given})
    whole = {"apiGroup": RBAC, "kind": "ClusterRole", "name": site.name}
    site.make(
        BINDINGS,
        {
            "apiVersion": version,
            "kind": "ClusterRoleBinding",
            "metadata": {"name": site.name},
            "roleRef": whole,
            "subjects": [subject],
        },
    )
    for plural, kind, more in (
        ("roles", "Role", {"rules": list(OWN)}),
        (
            "rolebindings",
            "RoleBinding",
            {"roleRef": {"apiGroup": RBAC, "kind": "Role", "name": "tidegate"}, "subjects": [subject]},
        ),
    ):
        body = {"apiVersion": version, "kind": kind, "metadata": meta, **more}
        site.api.create(Resource(RBAC, "v1", plural, kind), site.name, body)


def _kubeconfig(site: Site) -> str:
    """The same server, by a token of the account."""
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
    path = TOKENS.path(site.name, "tidegate", "token")
    token = site.api._write("POST", path, body, "application/json", dry_run=False)["status"]["token"]
    reached = connect(site.kubeconfig, site.context).configuration
    cluster: Json = {"server": reached.host, "insecure-skip-tls-verify": not reached.verify_ssl}
    if reached.verify_ssl and reached.ssl_ca_cert:
        cluster["certificate-authority"] = reached.ssl_ca_cert
    for name, value in (("tls-server-name", reached.tls_server_name), ("proxy-url", reached.proxy)):
        if value:
            cluster[name] = value
    said = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "account",
        "contexts": [{"name": "account", "context": {"cluster": "same", "user": "account"}}],
        "clusters": [{"name": "same", "cluster": cluster}],
        "users": [{"name": "account", "user": {"token": token}}],
    }
    file = site.folder / "account"
    file.write_text(yaml.safe_dump(said))
    file.chmod(0o600)
    return str(file)

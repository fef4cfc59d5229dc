"""The TokenPool's definition on a cluster: the API server takes it, its rules refuse, and its status can be written."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from kube_kinds import kinds_of
from site_report import DEFINITIONS
from site_rights import DEFINED

from autoscaler.cluster.api import ApiError
from autoscaler.cluster.custom_resources import TOKEN_POOLS
from autoscaler.crd import definition
from autoscaler.crd_pools import declared_of
from autoscaler.crd_status import patch_of, status_of
from autoscaler.model import Role, RoleDecision, RoleKey

if TYPE_CHECKING:
    from site_of_tests import Site

Json = dict[str, Any]
CEL: tuple[tuple[Json, str], ...] = (
    ({"roles": {"colocated": {"minReplicas": 9, "maxReplicas": 8}}}, "minReplicas must not be above maxReplicas"),
    ({"roles": {"colocated": {"maxReplicas": 8}, "decode": {"maxReplicas": 8}}}, "either colocated or has prefill"),
    ({"roles": {"colocated": {"maxReplicas": 8}}, "match": {"__x": "y"}}, "Prometheus label names"),
)
SCHEMA: tuple[tuple[Json, str], ...] = (
    ({"roles": {"colocated": {}}}, "maxReplicas"),
    ({"roles": {"colocated": {"maxReplicas": "many"}}}, "maxReplicas"),
    ({"roles": {"colocated": {"maxReplicas": 8}}, "mode": "on"}, "mode"),
)


def installed(site: Site) -> None:
    """The definition, removed afterwards where it was not there before."""
    if site.played is not None:
        site.played.store.know(kinds_of(definition()))
        pytest.importorskip("celpy", reason="cel-python, which evaluates the rules, is not installed")
        from cel_rules import refusals  # noqa: PLC0415 - needs celpy, which a real cluster does not

        site.played.store.rules = refusals
        return
    site.needs(DEFINED)
    try:
        found = site.api.get(DEFINITIONS, "", definition()["metadata"]["name"])
    except ApiError as error:
        if not error.absent:
            raise
        site.make(DEFINITIONS, definition())
    else:  # somebody's: looked at, never changed
        meta = {**definition()["metadata"], "resourceVersion": found["metadata"]["resourceVersion"]}
        ours = site.api.replace(DEFINITIONS, "", meta["name"], {**definition(), "metadata": meta}, dry_run=True)
        if ours["spec"]["versions"] != found["spec"]["versions"]:
            pytest.skip("another version of the TokenPool's definition is installed in this cluster")

    def established() -> bool:
        status = site.api.get(DEFINITIONS, "", definition()["metadata"]["name"]).get("status") or {}
        said = {one["type"]: (one["status"], one.get("message")) for one in status.get("conditions") or ()}
        assert said.get("NonStructuralSchema", ("False", ""))[0] == "False", said
        return said.get("Established", ("False", ""))[0] == "True"

    site.eventually(established, "the definition was never established")
    site.eventually(lambda: _served(site), "TokenPools are not served")


def _served(site: Site) -> bool:
    try:
        return list(site.api.pages(TOKEN_POOLS, site.name)) is not None
    except ApiError as error:
        if not error.absent:
            raise
        return False


def pool(site: Site, name: str = "chat", **spec: Any) -> Json:
    meta = {"name": name, "namespace": site.name}
    return {"apiVersion": "tidegate.dev/v1alpha1", "kind": "TokenPool", "metadata": meta, "spec": spec}


def test_the_definition_is_taken_refuses_what_is_wrong_and_its_status_is_written(site: Site) -> None:
    installed(site)
    for spec, why in (*SCHEMA, *CEL):
        with pytest.raises(ApiError, match=why) as refused:
            site.api.create(TOKEN_POOLS, site.name, pool(site, "bad", **spec), dry_run=True)
        assert refused.value.status == 422
    spec = {"roles": {"colocated": {"maxReplicas": 8, "target": {"name": "chat"}}}}
    made = site.api.create(TOKEN_POOLS, site.name, pool(site, **spec))
    assert made["spec"]["slo"]["ttftSeconds"] == 0.4  # defaults are the settings' own
    key = RoleKey(site.name, "chat", Role.COLOCATED)
    one = declared_of(made)
    wanted = status_of(one, None, [RoleDecision(key, 3, ready=2, starting=1)], time.time())
    body = {"status": patch_of(wanted, one.status)}
    written = site.api.patch(TOKEN_POOLS, site.name, "chat", body, subresource="status")
    assert written["status"] == wanted
    assert patch_of(wanted, declared_of(written).status) is None
    assert written["metadata"]["generation"] == 1  # a status is no change of the spec
    other = {"spec": {"roles": {"colocated": {"target": {"name": "other"}}}}}
    with pytest.raises(ApiError, match="target cannot be changed"):
        site.api.patch(TOKEN_POOLS, site.name, "chat", other)

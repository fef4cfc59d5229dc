"""Real definitions of kinds that a test cluster need not serve: installed for as long as a test needs them.

One that is there already is used and left alone; where its real operator is there too, which is known by its webhooks,
the tests of that kind are skipped, for two would act on the same objects.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from kube_kinds import CRDS, kinds_of
from site_report import DEFINITIONS, OURS

from autoscaler.cluster.api import ApiError, Resource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from site_of_tests import Site
    from site_operators import Operator

Json = dict[str, Any]
WEBHOOKS = tuple(
    Resource("admissionregistration.k8s.io", "v1", f"{kind.lower()}s", kind, namespaced=False)
    for kind in ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
)
REFERENCE = {name: {"type": "string"} for name in ("apiVersion", "kind", "name", "uid")}
COMMAND: Json = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "commands.bus.volcano.sh"},
    "spec": {
        "group": "bus.volcano.sh",
        "names": {"kind": "Command", "plural": "commands", "singular": "command", "listKind": "CommandList"},
        "scope": "Namespaced",
        "versions": [
            {
                "name": "v1alpha1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            **{name: {"type": "string"} for name in ("apiVersion", "kind", "action", "message")},
                            "metadata": {"type": "object"},
                            "reason": {"type": "string"},
                            "target": {
                                "type": "object",
                                "required": list(REFERENCE),
                                "x-kubernetes-map-type": "atomic",
                                "properties": {
                                    **REFERENCE,
                                    "controller": {"type": "boolean"},
                                    "blockOwnerDeletion": {"type": "boolean"},
                                },
                            },
                        },
                    }
                },
            }
        ],
    },
}
"""Volcano's Command has no file among the schemas; these are its fields."""


def working(site: Site, *operators: Operator) -> None:
    """The operators are at work in this site from now on. Skips where they cannot be."""
    for one in operators:
        for given in one.definitions:
            _installed(site, one, given)
    if site.played is not None:
        site.played.operators = False  # they are played here, as they must be on a real cluster
    for one in operators:
        site.needs((("get list watch create patch", one.resource, ""), ("patch", one.resource, "status")))
        site.operators.append(one.play)


def _installed(site: Site, operator: Operator, given: str | Json) -> None:
    if isinstance(given, str) and not (CRDS / given).is_file():
        pytest.skip(f"the real definition of {operator.name} is not there: {CRDS / given}")
    text = (CRDS / given).read_text(encoding="utf-8") if isinstance(given, str) else None
    said: Json = yaml.load(text, yaml.CSafeLoader) if text is not None else given  # type: ignore[assignment]  # else it is one
    if site.played is not None:
        site.played.store.know(kinds_of(said))
        return
    site.needs((("get create delete", DEFINITIONS, ""), *(("list", one, "") for one in WEBHOOKS)))
    name, group = said["metadata"]["name"], said["spec"]["group"]
    site.eventually(lambda: not _leaving(site, name), f"the former {name} never went", 60.0)
    found = _there(site, name)
    version = next(one["name"] for one in said["spec"]["versions"] if one["storage"])
    if found is None:
        with unless_there():  # another run may be at it
            site.make(DEFINITIONS, _slim(said))
    elif not OURS.items() <= (found["metadata"].get("labels") or {}).items() and (who := _webhook(site, group)):
        pytest.skip(f"{operator.name} is at work in this cluster ({who}): its controller would act beside ours")
    elif version not in {one["name"] for one in found["spec"]["versions"] if one["served"]}:
        pytest.skip(f"another version of {name} is installed in this cluster: it serves no {version}")
    site.eventually(lambda: _established(site, name), f"{name} was never established")
    served = Resource(group, version, said["spec"]["names"]["plural"], said["spec"]["names"]["kind"])
    site.eventually(lambda: _listed(site, served), f"{name} is not served")


def _there(site: Site, name: str) -> Json | None:
    """The definition; None where there is none."""
    try:
        return site.api.get(DEFINITIONS, "", name)
    except ApiError as error:
        if not error.absent:
            raise
    return None


def _leaving(site: Site, name: str) -> bool:
    """Whether it is being removed, as an earlier test's is until all that it defines has gone."""
    found = _there(site, name)
    return found is not None and "deletionTimestamp" in found["metadata"]


@contextmanager
def unless_there() -> Iterator[None]:
    """An object that is there already is as good as made."""
    try:
        yield
    except ApiError as error:
        if error.reason != "AlreadyExists":
            raise


def _slim(definition: Json) -> Json:
    """Without what only people read and what a server says itself: a megabyte less to store and to send."""

    def slim(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: slim(v) for k, v in value.items() if not (k == "description" and isinstance(v, str))}
        return [slim(one) for one in value] if isinstance(value, list) else value

    meta = {key: value for key, value in definition["metadata"].items() if key in {"name", "annotations"}}
    spec = {**slim(definition["spec"]), "conversion": {"strategy": "None"}}
    return {"apiVersion": definition["apiVersion"], "kind": definition["kind"], "metadata": meta, "spec": spec}


def _webhook(site: Site, group: str) -> str | None:
    """A webhook for objects of that group, by name; None where there is none."""
    for resource in WEBHOOKS:
        for page, _ in site.api.pages(resource):
            for one in page:
                rules = [rule for hook in one.get("webhooks") or () for rule in hook.get("rules") or ()]
                if any(group in (rule.get("apiGroups") or ()) for rule in rules):
                    return f"{resource.kind} {one['metadata']['name']}"
    return None


def _established(site: Site, name: str) -> bool:
    conditions = ((_there(site, name) or {}).get("status") or {}).get("conditions") or ()
    return any(one["type"] == "Established" and one["status"] == "True" for one in conditions)


def _listed(site: Site, resource: Resource) -> bool:
    """Whether its objects can be listed, and discovery tells of it, which follows a little later."""
    try:
        told = site.api.read(f"/apis/{resource.group}/{resource.version}").get("resources") or ()
        return (
            resource.plural in {one["name"] for one in told} and list(site.api.pages(resource, site.name)) is not None
        )
    except ApiError as error:
        if not error.absent:
            raise
        return False

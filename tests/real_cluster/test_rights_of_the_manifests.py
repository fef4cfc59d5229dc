"""The rights that the chart and kustomize give are enough for what they are given for, and no more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from site_account import NEEDED, account
from site_kubelets import NODES, PODS
from site_report import DEPLOYMENTS, JOBS
from site_steps import decide_until, training_everywhere

from autoscaler.cluster.api import Api
from autoscaler.cluster.connection import connect
from autoscaler.cluster.preflight import allowed

if TYPE_CHECKING:
    from site_of_tests import Site

BEYOND = (
    ("delete", PODS, ""),
    ("create", PODS, "eviction"),
    ("patch", PODS, ""),
    ("delete", NODES, ""),
    ("patch", DEPLOYMENTS, ""),
    ("create", JOBS, ""),
)
"""What the features of this test do not need."""


def test_an_account_with_the_rights_of_two_features_does_both_and_could_do_nothing_else(site: Site) -> None:
    site.needs(NEEDED if site.played is None else ())
    training_everywhere(site)
    with account(site, "see", "replicas", "preempt") as kubeconfig:
        room = site.room(kubeconfig=kubeconfig, context=None)
        site.eventually(lambda: room.decided(site.wish(0), None) is not None, "never led")
        decide_until(
            site, room, lambda: site.wish(4, preempt=4), lambda: site.bound(app="chat") == 4, "no room was made"
        )
        decide_until(site, room, lambda: site.wish(0), lambda: not site.suspended(), "training was never given back")
        assert room._snapshot().missing == {}  # every kind that is served can be read
        api = Api(connect(kubeconfig, None))
        try:
            beyond = [f"{verb} {what}/{below}" for verb, what, below in BEYOND if allowed(api, what, below, verb)]
        finally:
            api.close()
        site.leave()
    if len(beyond) == len(BEYOND):
        pytest.skip("what it may not do cannot be seen: this cluster authorizes everybody for everything")
    assert beyond == []

"""The fleet's own HTTP API on loopback: look at it, load it, break a replica."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from aiohttp import web

from autoscaler.demo.kube_state import kube_state
from autoscaler.demo.replica_metrics import CONTENT_TYPE
from autoscaler.demo.replica_server import Fault

if TYPE_CHECKING:
    from autoscaler.demo.fleet import Fleet

_LARGEST_FACTOR = 1000.0
_LARGEST_REPLICAS = 1000
_LONGEST_NUMBER = 6


def control_app(fleet: Fleet) -> web.Application:
    """GET /state, GET /kube-state, GET /health, POST /fault, POST /load, POST /scale."""
    control = _Control(fleet)
    app = web.Application(client_max_size=65_536)
    app.router.add_get("/state", control.get_state)
    app.router.add_get("/kube-state", control.get_kube_state)
    app.router.add_get("/health", control.get_health)
    app.router.add_post("/fault", control.post_fault)
    app.router.add_post("/load", control.post_load)
    app.router.add_post("/scale", control.post_scale)
    return app


class _Control:
    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def get_state(self, request: web.Request) -> web.Response:
        """`?history=N` leaves out all but the latest N samples of each pool."""
        wanted = request.query.get("history")
        if wanted is not None and not (wanted.isascii() and wanted.isdigit() and len(wanted) <= _LONGEST_NUMBER):
            raise _bad(f"history is {wanted!r}; it must be a number of samples")
        return web.json_response(self._fleet.state(None if wanted is None else int(wanted)))

    async def get_kube_state(self, _request: web.Request) -> web.Response:
        text = kube_state(self._fleet.pools)
        return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE})

    async def get_health(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def post_fault(self, request: web.Request) -> web.Response:
        """{"pod": name, "kind": garbage|hang|refuse|nan|none}."""
        body = await _body(request, {"pod", "kind"})
        kinds = [kind.value for kind in Fault]
        if body["kind"] not in kinds:
            raise _bad(f"kind is {body['kind']!r}; it must be one of {', '.join(kinds)}")
        server = self._fleet.servers.get(body["pod"]) if isinstance(body["pod"], str) else None
        if server is None:
            raise _bad(f"pod is {body['pod']!r}; it must be one of {', '.join(self._fleet.servers) or 'none now'}")
        await server.misbehave(Fault(body["kind"]))
        return web.json_response(body)

    async def post_load(self, request: web.Request) -> web.Response:
        """{"factor": times the scripted rate, "pool": optional name}."""
        body = await _body(request, {"factor"}, {"pool"})
        factor = body["factor"]
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not math.isfinite(factor):
            raise _bad(f"factor is {factor!r}; it must be a number")
        if not 0 <= factor <= _LARGEST_FACTOR:
            raise _bad(f"factor is {factor}; it must be 0..{_LARGEST_FACTOR:g}")
        pools = [pool for pool in self._fleet.pools if body.get("pool", pool.config.name) == pool.config.name]
        if not pools:
            raise _bad(f"pool is {body['pool']!r}; there is no such pool")
        for pool in pools:
            pool.factor = float(factor)
        return web.json_response(body)

    async def post_scale(self, request: web.Request) -> web.Response:
        """{"pool": name, "role": role, "replicas": n}: what writing the scale subresource does, when no HPA follows."""
        body = await _body(request, {"pool", "role", "replicas"})
        if self._fleet.config.hpa.follow:
            raise web.HTTPConflict(text="the HPA follows the external metric and would undo this\n")
        count = body["replicas"]
        if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= _LARGEST_REPLICAS:
            raise _bad(f"replicas is {count!r}; it must be an integer 0..{_LARGEST_REPLICAS}")
        for pool in self._fleet.pools:
            for role, deployment in pool.deployments.items():
                if (pool.config.name, role.value) == (body["pool"], body["role"]):
                    deployment.scale(count, self._fleet.now())
                    return web.json_response(body)
        raise _bad(f"there is no pool {body['pool']!r} with role {body['role']!r}")


async def _body(request: web.Request, required: set[str], optional: frozenset[str] | set[str] = frozenset()) -> Any:
    """The request's JSON object, with exactly these keys."""
    try:
        body: object = json.loads(await request.text())
    except (ValueError, RecursionError) as error:
        raise _bad(f"the body is no JSON: {error}") from error
    if not isinstance(body, dict):
        raise _bad("the body must be a JSON object")
    if not required <= body.keys() <= required | optional:
        raise _bad(f"the body has keys {sorted(body)}; it must have {sorted(required)} and may have {sorted(optional)}")
    return body


def _bad(reason: str) -> web.HTTPBadRequest:
    return web.HTTPBadRequest(text=reason + "\n")

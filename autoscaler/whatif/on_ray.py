"""Runs on a Ray cluster: the same code, somewhere else."""

from __future__ import annotations

import importlib
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from autoscaler.errors import BadSettings, TidegateError
from autoscaler.whatif.processes import attempt, kept_or_raised

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from autoscaler.whatif.history import Load
    from autoscaler.whatif.run import Run
    from autoscaler.whatif.sweep import Backend, Done

RETRIES = 5
"""How often a run is begun again when its worker or node died; runs are pure, so that this is safe."""
IN_FLIGHT_PER_CPU = 4
"""Runs handed to the cluster at once, per CPU: enough to keep it busy while results travel."""


def run_on_ray(address: str) -> Backend:
    """A backend on the Ray cluster at `address` (`auto`, `host:port`, `ray://host:port`), or a local one for `local`.

    Every node needs the same Tidegate installed. The loads are sent once per node, results come back as they finish.

    Raises:
        BadSettings: (when it runs) ray is not installed, or there is no cluster at the address.
    """
    return partial(_run, address)


def _run(address: str, asked: Sequence[Run], loads: Mapping[str, Load]) -> Iterator[Done]:
    if not asked:
        return
    ray = _joined(address)
    try:
        one = ray.remote(num_cpus=1, max_retries=RETRIES, retry_exceptions=False)(attempt)
        shared = ray.put(dict(loads))
        most = max(8, IN_FLIGHT_PER_CPU * int(ray.cluster_resources().get("CPU", 1)))
        coming = iter(enumerate(asked))
        waiting: dict[Any, int] = {}
        while True:
            while len(waiting) < most and (following := next(coming, None)) is not None:
                waiting[one.remote(following[1], shared)] = following[0]
            if not waiting:
                return
            for ready in ray.wait(list(waiting), num_returns=1)[0]:
                yield waiting.pop(ready), kept_or_raised(_fetched(ray, ready))
    finally:
        ray.shutdown()


def _fetched(ray: Any, reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TidegateError(f"ray: a run was lost {RETRIES + 1} times: {reason}") from None


def _joined(address: str) -> Any:
    try:
        ray: Any = importlib.import_module("ray")  # an extra of 200 MB that only this needs
    except ImportError:
        raise BadSettings(("--ray: ray is not installed; pip install 'tidegate[ray]'",)) from None
    try:
        ray.init(
            address=None if address == "local" else address,
            ignore_reinit_error=True,
            include_dashboard=False if address == "local" else None,
            log_to_driver=False,
            logging_level=logging.WARNING,
        )
    except (ConnectionError, RuntimeError, ValueError, TimeoutError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BadSettings((f"--ray {address}: no Ray cluster could be joined there: {reason}",)) from None
    return ray

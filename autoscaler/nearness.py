"""Where a gang's GPUs lie against where ours serve: what it costs to work in pairs across network domains.

A replica whose partners (decode for prefill) are in another domain has a fifth less of its link (HeteroScale): that
share of its GPUs, for the ten minutes that a burst and what follows it keep them, is told in seconds of a GPU's work,
so that it stands beside the work which training loses. Example: of a gang's 16 GPUs 8 lie apart: 0.2 x 600 x 8 / 16 is
60 s per GPU, as much as taking a gang that saved its work a minute earlier. Told for an hour, 7.8
GPU-hours of training were lost and 6.9 % of KV crossed; for ten minutes 6.8, and 7.8 % (`bench/preemption.py`, seeds 3
to 6, disaggregated with fast starts: little of the lowest priority lies near there).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Place = TypeVar("Place", int, tuple[str, ...])

ACROSS_SHARE = 0.2
"""Of a link between two domains, lost to crossing switches."""
ACROSS_OVER_S = 600.0
HOME_SHARE = 0.2
"""Of the serving GPUs, in a domain whose replicas are enough to find partners among."""


def homes(serving: Mapping[Place, int]) -> frozenset[Place]:
    """The network domains to join: those with a good share of the GPUs that serve there (GPUs by domain)."""
    total = sum(serving.values())
    return frozenset(place for place, gpus in serving.items() if gpus and gpus >= HOME_SHARE * total)


def paired_homes(pools: Sequence[tuple[str, str]], serving: Mapping[Place, int]) -> frozenset[Place]:
    """The network domains to join with GPUs of a kind; none where nobody has partners there.

    Args:
        pools: (namespace, pool) of each role on this kind of GPU: one that is named twice has two roles that meet.
        serving: GPUs of this kind that serve, by domain.
    """
    return homes(serving) if len(set(pools)) < len(pools) else frozenset()


def across_s(gpus: Iterable[tuple[Place, int]], near: frozenset[Place]) -> float:
    """What taking these GPUs (by domain) costs in seconds of work per GPU, for lying apart; 0 where nothing serves."""
    here = list(gpus)
    total = sum(count for _, count in here)
    if not near or total < 1:
        return 0.0
    return ACROSS_SHARE * ACROSS_OVER_S * sum(count for place, count in here if place not in near) / total

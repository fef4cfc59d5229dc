"""Which training the simulated hands take, by the rule of the world's setup."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoscaler.exchange import improved
from autoscaler.simulator.setup import Victims

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

    from autoscaler.simulator.supply import Gang


def chosen(
    gangs: Sequence[Gang], gpus: int, rule: Victims, price: Callable[[Gang], float], random: np.random.Generator
) -> list[Gang]:
    """The gangs to take for `gpus`, or all there are; `price`: what a gang loses, in seconds of work per GPU."""
    running = list(gangs)
    if rule is Victims.RANDOM:
        running = [running[index] for index in random.permutation(len(running))]
    elif rule is Victims.PRIORITY:
        running.sort(key=lambda gang: (gang.spec.priority, -gang.since))
    elif rule is Victims.LEAST_LOST:
        running.sort(key=lambda gang: (price(gang), gang.spec.priority))
    else:
        running.sort(key=lambda gang: (gang.spec.priority, price(gang)))
    taken: list[Gang] = []
    got = 0
    for gang in running:
        if got >= gpus:
            break
        taken.append(gang)
        got += gang.spec.gpus
    if rule in {Victims.LOWEST_LEAST, Victims.LEAST_LOST}:
        taken = _better(taken, running, gpus, price, ranked=rule is Victims.LOWEST_LEAST)
    return taken


def _better(
    taken: list[Gang], running: list[Gang], wanted: int, price: Callable[[Gang], float], *, ranked: bool
) -> list[Gang]:
    """What is needed of them, or others that lose less in all."""
    got = sum(gang.spec.gpus for gang in taken)

    def swap(one: Gang, other: Gang | None) -> bool:
        nonlocal got
        left = got - one.spec.gpus + (other.spec.gpus if other is not None else 0)
        got = left if left >= wanted else got
        return left >= wanted

    costs = {id(gang): gang.spec.gpus * price(gang) for gang in running}
    others = [gang for gang in running if gang not in taken]
    return improved(taken, others, lambda gang: gang.spec.priority * ranked, lambda gang: costs[id(gang)], swap)

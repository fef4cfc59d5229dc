"""A first choice of training to take made better: what is needless left alone, what is dear exchanged.

`wanted`: GPUs. `price`: seconds of work per GPU that a gang loses. `ranked`: whether priorities count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoscaler.exchange import exchanged

if TYPE_CHECKING:
    from collections.abc import Callable

    from autoscaler.simulator.supply import Gang


def spare(taken: list[Gang], wanted: int, price: Callable[[Gang], float], *, ranked: bool) -> None:
    """Leave those alone that are not needed, the highest priority and the dearest first."""
    got = sum(gang.spec.gpus for gang in taken)
    for gang in sorted(taken, key=lambda one: (-one.spec.priority * ranked, -one.spec.gpus * price(one))):
        if got - gang.spec.gpus >= wanted:
            taken.remove(gang)
            got -= gang.spec.gpus


def better(
    taken: list[Gang], running: list[Gang], wanted: int, price: Callable[[Gang], float], *, ranked: bool
) -> list[Gang]:
    """The same or others that run, exchanged one for one for what loses less in all."""
    got = sum(gang.spec.gpus for gang in taken)

    def swap(one: Gang, other: Gang) -> bool:
        nonlocal got
        left = got - one.spec.gpus + other.spec.gpus
        got = left if left >= wanted else got
        return left >= wanted

    costs = {id(gang): gang.spec.gpus * price(gang) for gang in running}
    others = [gang for gang in running if gang not in taken] if got >= wanted else []
    return exchanged(
        taken,
        others,
        rank=lambda gang: gang.spec.priority * ranked,
        cost=lambda gang: costs[id(gang)],
        swap=swap,
    )

"""From a setup to what policies are told (`Scene`), and to what the engines really are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from autoscaler.errors import BadSettings
from autoscaler.learning import Prior
from autoscaler.model import Role, RoleKey, Tier
from autoscaler.policies.policy import Scene
from autoscaler.profiles import UNKNOWN, load_profiles
from autoscaler.rules import RoleRules, SupplyRules
from autoscaler.simulator.engine_types import EngineProfile
from autoscaler.simulator.setup import Layout
from autoscaler.simulator.startup import Startup
from autoscaler.velocity import Engine, Target, link_velocity

if TYPE_CHECKING:
    from pathlib import Path

    from autoscaler.profiles import Profile, ProfileBook
    from autoscaler.simulator.setup import Setup

LOST_WORK_PRICE_PER_GPU = 1.0
"""Told to policies as what a preempted GPU costs once, in the currency of its hourly price (the settings' default)."""
NEW_NODE_PRICE_PER_GPU = 0.5
"""Likewise, minimum billing of a new node."""
SHORTAGE_PRICE_PER_GPU = 100.0
"""Likewise, price of lacking one GPU's worth of a replica for an hour."""
DEFAULT_PRICE = 2.5
"""Per GPU-hour, where the accelerator's is not known."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Everything derived from a setup before the world begins.

    Attributes:
        scene: what policies are told. profile: the real hardware. startup: the real start-up times.
        price_per_gpu_hour: for the score.
    """

    scene: Scene
    profile: Profile
    startup: Startup
    price_per_gpu_hour: float

    @property
    def roles(self) -> tuple[Role, ...]:
        """In the scene's order."""
        return tuple(rule.key.role for rule in self.scene.roles)


def stage(setup: Setup, book: ProfileBook | None = None, profiles: Path | None = None) -> Stage:
    """What a setup means. Raises BadSettings for profiles or weight sources that do not exist."""
    book = book or (_shipped() if profiles is None else load_profiles(profiles))
    profile = profile_named(book, setup.profile)
    told = profile_named(book, setup.told_profile) if setup.told_profile else profile
    if setup.supply.node_gpus < profile.gpus:
        raise BadSettings(
            (f"supply.node_gpus is {setup.supply.node_gpus}; a replica of {profile.name} needs {profile.gpus} on one",)
        )
    accelerator = book.accelerators.get(profile.accelerator)
    price = setup.supply.price_per_gpu_hour
    if price is None:
        price = accelerator.price_per_gpu_hour if accelerator else DEFAULT_PRICE
    startup = Startup.of(setup.supply, profile, book)
    scene = Scene(_roles(setup, told, profile), _rungs(setup, startup, profile, price))
    return Stage(scene, profile, startup, price)


@cache
def _shipped() -> ProfileBook:
    """The shipped profiles, read once: a simulation of a second should not begin with half a second of YAML."""
    return load_profiles()


def profile_named(book: ProfileBook, name: str) -> Profile:
    """The profile `model/accelerator/tpN[/dtype]`, aliases included. Raises BadSettings with the nearest names."""
    if name in book.profiles:
        return book.profiles[name]
    head, _, last = name.rpartition("/")
    dtype = "bfloat16"
    if not last.startswith("tp"):
        dtype = last
        head, _, last = head.rpartition("/")
    model, _, accelerator = head.rpartition("/")
    if not (model and last.startswith("tp") and last[2:].isdecimal()):
        raise BadSettings((f"profile {name!r} is not of the form model/accelerator/tpN, nor `{UNKNOWN}`",))
    return book.find(model, accelerator, int(last[2:]), dtype)


def engine_profile(profile: Profile, block_size: int, slow: float = 1.0) -> EngineProfile:
    """The engine that a profile describes, `slow` times as slow.

    What an idle replica's TTFT has beside the prompt's tokens and one step is its front end's.
    """
    frontend = max(0.0, profile.prefill_request_s - profile.step_base_s - profile.per_running_s)
    return EngineProfile(
        step_seconds=profile.step_base_s * slow,
        prefill_token_seconds=profile.per_prefill_token_s * slow,
        sequence_seconds=profile.per_running_s * slow,
        resident_token_seconds=profile.per_resident_token_s * slow,
        kv_capacity_tokens=profile.kv_capacity_tokens,
        max_running=min(profile.max_running, profile.max_batched_tokens),
        max_batched_tokens=profile.max_batched_tokens,
        block_size=block_size,
        frontend_seconds=frontend * slow,
    )


def _roles(setup: Setup, told: Profile, real: Profile) -> tuple[RoleRules, ...]:
    target = Target(_told_ttft(setup), setup.slo.tpot_s, setup.slo.attainment)
    roles = (Role.COLOCATED,) if setup.layout is Layout.COLOCATED else (Role.PREFILL, Role.DECODE)
    made = []
    for role in roles:
        link = link_velocity(setup.link_gbps * 1e9 / 8, told.kv_bytes_per_token) if role is Role.PREFILL else None
        made.append(
            RoleRules(
                key=RoleKey(setup.namespace, setup.pool, role),
                engine=Engine(told.step, told.kv_capacity_tokens, told.max_running, told.max_batched_tokens, link),
                prior=Prior(told.step, told.relative_uncertainty),
                profile=told.name,
                target=target,
                minimum=setup.minimum,
                maximum=setup.maximum,
                accelerator=real.accelerator,
                gpus=real.gpus,
                shortage_price=SHORTAGE_PRICE_PER_GPU * real.gpus,
            )
        )
    return tuple(made)


def _told_ttft(setup: Setup) -> float:
    """One TTFT target for policies that know only one: the middle class's, 400 ms by default."""
    classes = setup.slo.ttft_s
    return classes[-1][1] if classes else setup.slo.ttft_longest_s


def _rungs(setup: Setup, startup: Startup, profile: Profile, price: float) -> tuple[SupplyRules, ...]:
    supply, name = setup.supply, profile.accelerator
    start = startup.lead(image=supply.image_cached)
    rungs = [SupplyRules(Tier.START, name, start.p50_s, price, spread=start.p90_s / start.p50_s)]
    if supply.gangs:
        gang = max(one.gpus for one in supply.gangs)
        lead = startup.eviction.then(start)
        spread = lead.p90_s / lead.p50_s
        rungs.append(SupplyRules(Tier.PREEMPT, name, lead.p50_s, price, LOST_WORK_PRICE_PER_GPU, gang, spread))
    if supply.nodes_to_buy:
        lead = startup.node.then(startup.lead(image=False))
        spread, size = lead.p90_s / lead.p50_s, supply.node_gpus
        rungs.append(SupplyRules(Tier.PROVISION, name, lead.p50_s, price, NEW_NODE_PRICE_PER_GPU, size, spread))
    return tuple(rungs)

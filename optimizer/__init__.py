"""What to take from which supply, at least cost: a problem, its algebra, a solver, a greedy fallback, a typed plan.

from optimizer import Demand, Problem, Replicas, Source, Tier, Variant, plan, simple_pool

h100 = Variant("h100", "H100", gpus=2, capacity=1000, replicas=(Replicas(2),))
chat = simple_pool("chat", h100, (Demand(0, 2000), Demand(115, 3000)), shortage_price=0.1)
free = Source("free/H100", Tier.START, "H100", gpus=8, lead_s=115)
plan(Problem((chat,), (free,))).pools["chat"].roles[""].target  # 3: two run, one more is there when the load is
"""

from optimizer.actions import Action, Do
from optimizer.changes import Change
from optimizer.check import check
from optimizer.evidence import Cost
from optimizer.plan import plan
from optimizer.problem import (
    Convertible,
    Demand,
    Disruption,
    Domain,
    Gang,
    Offer,
    Pool,
    Problem,
    ProblemError,
    Quota,
    Ratio,
    Replicas,
    Role,
    Rule,
    Rules,
    ServiceClass,
    Source,
    Tier,
    Variant,
    Wave,
)
from optimizer.result import Alternative, Effort, Plan, PoolPlan, RolePlan, Status
from optimizer.simple import simple_pool
from optimizer.solve import Door, Limits
from optimizer.startup import Spread, StartUp, waves
from optimizer.state_value import release_price

__all__ = [
    "Action",
    "Alternative",
    "Change",
    "Convertible",
    "Cost",
    "Demand",
    "Disruption",
    "Do",
    "Domain",
    "Door",
    "Effort",
    "Gang",
    "Limits",
    "Offer",
    "Plan",
    "Pool",
    "PoolPlan",
    "Problem",
    "ProblemError",
    "Quota",
    "Ratio",
    "Replicas",
    "Role",
    "RolePlan",
    "Rule",
    "Rules",
    "ServiceClass",
    "Source",
    "Spread",
    "StartUp",
    "Status",
    "Tier",
    "Variant",
    "Wave",
    "check",
    "plan",
    "release_price",
    "simple_pool",
    "waves",
]

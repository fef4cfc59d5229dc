"""What to take from which supply, at least cost: a problem, its algebra, a solver, a greedy fallback, a typed plan.

from optimizer import Demand, Need, Problem, Source, plan

chat = Need("chat", "H100", (Demand(0, 2000), Demand(115, 3000)), unit_capacity=1000, gpus_per_unit=2,
            current=2, minimum=1, maximum=8, shortage_price=100)
free = Source("free/H100", "start", "H100", gpus=8, lead_s=115)
plan(Problem((chat,), (free,))).needs["chat"].target  # 3: two run, one more is there when the load is
"""

from optimizer.plan import Alternative, NeedPlan, Plan, Status, Take, plan
from optimizer.price import Cost
from optimizer.problem import Demand, Need, Problem, ProblemError, Rules, Source, Starting, check

__all__ = [
    "Alternative",
    "Cost",
    "Demand",
    "Need",
    "NeedPlan",
    "Plan",
    "Problem",
    "ProblemError",
    "Rules",
    "Source",
    "Starting",
    "Status",
    "Take",
    "check",
    "plan",
]

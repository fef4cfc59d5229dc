"""What if: the code that runs in production, asked about loads and clusters that are not there yet.

from autoscaler import whatif

loads = whatif.from_trace("week.csv")
base = whatif.Scenario(profile="llama-3.1-8b/h100-80gb/tp1")
asked = whatif.grid(base, {"growth": [1, 2], "supply.start_scale": [1.0, 0.7]})
outcomes = whatif.swept(asked, loads, kept=whatif.Kept(whatif.usual_folder()))
whatif.summary(outcomes)                    # pandas, one row per scenario
whatif.recommend(outcomes).text             # Markdown
whatif.recommendation_picture(outcomes)     # matplotlib
"""

from autoscaler.whatif.figures import frontier, recommendation_picture, replicas
from autoscaler.whatif.history import (
    Loads,
    binned,
    from_journal,
    from_prometheus,
    from_trace,
    generated,
    loaded,
    loads_of,
)
from autoscaler.whatif.on_ray import run_on_ray
from autoscaler.whatif.processes import run_in_processes
from autoscaler.whatif.recommendation import Recommendation, recommend
from autoscaler.whatif.scenario import HistoryPrometheus, PoolShare, Scenario, Study, expanded, grid
from autoscaler.whatif.study_file import json_schema, load_study, study_of
from autoscaler.whatif.sweep import Kept, swept, usual_folder
from autoscaler.whatif.tables import demand_frame, frame, pool_summary, series, summary

__all__ = [
    "HistoryPrometheus",
    "Kept",
    "Loads",
    "PoolShare",
    "Recommendation",
    "Scenario",
    "Study",
    "binned",
    "demand_frame",
    "expanded",
    "frame",
    "from_journal",
    "from_prometheus",
    "from_trace",
    "frontier",
    "generated",
    "grid",
    "json_schema",
    "load_study",
    "loaded",
    "loads_of",
    "pool_summary",
    "recommend",
    "recommendation_picture",
    "replicas",
    "run_in_processes",
    "run_on_ray",
    "series",
    "study_of",
    "summary",
    "swept",
    "usual_folder",
]

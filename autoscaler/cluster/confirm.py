"""Whether what was done shows, and whether it has had its effect."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoscaler.cluster.actions import Action, Clamp, GiveBack, Preempt, Provision, ReleaseNode, SetReplicas
from autoscaler.cluster.intents import begun
from autoscaler.cluster.pod_actions import Drain, LeaveFirst, PullImage, Sleep, Undrain, Wake
from autoscaler.cluster.release import FIRST, standing_of
from autoscaler.cluster.returns import COST

if TYPE_CHECKING:
    from autoscaler.cluster.sight_types import Snapshot


def progress(action: Action, seen: Snapshot) -> tuple[bool, bool]:
    """(visible, confirmed): whether it shows in the snapshot, and whether it is complete."""
    if isinstance(action, Preempt):
        return _preempted(action, seen)
    if isinstance(action, Provision):
        return _provisioned(action, seen)
    if isinstance(action, (Drain, Undrain, LeaveFirst, Sleep, Wake)):
        return _on_pod(action, seen)
    if isinstance(action, PullImage):
        job = next((one for one in seen.training if one.key == action.about), None)
        return job is not None, job is not None  # how long a pull takes is the registry's affair
    there = _there(action, seen)
    return there, there


def _on_pod(action: Drain | Undrain | LeaveFirst | Sleep | Wake, seen: Snapshot) -> tuple[bool, bool]:
    """A pod that has gone, or is going, needs nothing more."""
    pods = seen.pools[action.role].living
    pod = next((one for one in pods if one.meta.uid == action.pod.meta.uid), None)
    if pod is None:
        return True, True
    stands = standing_of(pod)
    if isinstance(action, Sleep):
        return bool(stands.stage), stands.stage == "asleep"
    if isinstance(action, Wake):
        return stands.stage in {"waking", ""}, not stands.stage
    if isinstance(action, LeaveFirst):
        done = pod.meta.annotations.get(COST) == str(FIRST)
    else:
        done = (stands.draining_at is None) == isinstance(action, Undrain)
    return done, done


def _there(action: Action, seen: Snapshot) -> bool:
    if isinstance(action, SetReplicas):
        scalable = seen.pools[action.role].scalable
        return scalable is not None and scalable.wanted == action.replicas
    if isinstance(action, Clamp):
        owner = seen.pools[action.role].owner
        return owner is not None and owner.high == max(action.replicas, 1)
    if isinstance(action, GiveBack):
        now = next((one for one in seen.training if one.meta.uid == action.training.meta.uid), None)
        return now is None or now.mark is None
    if isinstance(action, ReleaseNode):
        return all(claim.meta.uid != action.claim.meta.uid for claim in seen.claims)
    return True


def _provisioned(action: Provision, seen: Snapshot) -> tuple[bool, bool]:
    if action.settings.by.kind != "nodeclaim":
        return True, True  # the object that was written tells the rest
    claim = next((one for one in seen.claims if one.meta.name == action.name), None)
    return claim is not None, claim is not None and claim.node in seen.nodes


def _preempted(action: Preempt, seen: Snapshot) -> tuple[bool, bool]:
    """Complete when none of the pods it was taken for holds a GPU; those of a later run do not count."""
    uids = {pod.meta.uid for pod in action.gang.group.pods}
    gang = next((one for one in seen.gangs if one.group.key == action.about), None)
    if gang is None or not any(pod.meta.uid in uids for pod in gang.group.pods):
        return True, True
    training = gang.group.training
    marked = training is not None and training.mark is not None
    return marked or begun(gang) is not None, False

"""The plan for a demand: fewest cores first, each tried in a simulation of the service.

A formula says at once which plans cannot carry the rate, or are too slow when nothing else is to be done. The
others of equal cores are looked at briefly; who is best there is simulated at length, and taken if it keeps
the promise with a margin. All runs see the same arrivals, stretched to their rate, so that plans differ by
what they are and not by chance (common random numbers: Law, "Simulation Modeling and Analysis", 2015).
"""

from bentos.manifest import Plan
from pipelines.core.capacity.advice import advice, least_promise
from pipelines.core.capacity.candidates import PROOF, Candidates
from pipelines.core.capacity.foresight import Foresight, Simulate
from pipelines.core.capacity.profile import Profile
from pipelines.core.capacity.proposal import Demand, Proposal
from pipelines.core.capacity.reasons import reasons
from pipelines.core.capacity.simulation import simulate
from pipelines.core.errors import SettingsInvalid

HOPELESS = 0.01
"""Where no more than this share is answered in time, it is better to be late than to refuse everyone."""


def propose(
    plan: Plan,
    fixed: frozenset[str],
    profile: Profile,
    demand: Demand,
    seed: int = 0,
    simulate: Simulate = simulate,
) -> Proposal:
    """The plan with the fewest cores that keeps the promise at twice the expected peak; where none does, the
    one with the most answers in time, and what would have to change.

    Of `plan`, what `fixed` names of workers, threads, replicas, max_batch_size, max_queue_rows and
    max_latency_ms stays as it is, and all that the search knows nothing of; padded_batch_sizes go with
    max_batch_size. Raises SettingsInvalid for threads that the profile does not know.
    """
    if "threads" in fixed and plan.threads not in profile.costs:
        known = ", ".join(map(str, profile.costs))
        raise SettingsInvalid("threads", plan.threads, f"what the model costs was measured with {known}")
    candidates = Candidates(plan, fixed, Foresight(profile, demand, seed, simulate))
    found = candidates.best()
    if found.tried.meets:
        return Proposal(found.plan, True, tuple(candidates.tried), reasons(candidates, found))
    patient = least_promise(candidates)
    hints = advice(candidates, found, patient)
    is_hopeless = found.tried.goodput_rps < HOPELESS * found.tried.rate_rps
    if patient and is_hopeless and "max_latency_ms" not in fixed:
        found = candidates.look(patient.plan, PROOF)
    return Proposal(found.plan, False, tuple(candidates.tried), reasons(candidates, found), hints)

"""Whether a release keeps its promise under load: the verdicts of the load test."""

from pipelines.core.capacity.proof import Load, Trial
from pipelines.core.capacity.proposal import Proposal
from pipelines.core.errors import LoadTestInvalid
from pipelines.core.latency import Stage, fell_behind
from pipelines.core.verdict import Outcome, Verdict, judge

PLAN_GATE = "plan_keeps_promise"
WITHIN_SLO, BOUNDED, NO_LEAK = "within_slo", "overload_is_bounded", "no_leak"

MOST_LATE = 1.25
"""Under overload the p99 of what was let in may be so many times the deadline."""
QUICK_SHARE = 0.5
"""Of the promised p99, in which 99 % of all refusals are to be answered."""
HELD_SHARE = 0.5
"""Of its knee, what a service must still answer when it is offered twice that."""
MOST_BROKEN = 0.05
"""The share of an overload that may end in anything but an answer or a quick refusal."""
LEAST_GROWTH_MIB = 8.0
"""A heap that settles grows as well, but not by so much."""
MOST_LEAKED_BYTES = 512
"""A request that keeps so much for good is a leak."""
MOST_DESCRIPTORS = 16
"""So many more at the end than at the beginning are not connections that come and go."""
MOST_UNANSWERED = 0.05
"""Half of what it can do is no load to be refused at: a service that is stuck leaks nothing either."""


def judge_plan(proposal: Proposal, subject: str) -> Verdict:
    """Whether the plan should keep the promise, as foretold; where not, what would have to change."""
    outcome: Outcome = "pass" if proposal.met else "fail"
    reasons = proposal.reasons if proposal.met else (*proposal.reasons, *proposal.advice)
    return Verdict(PLAN_GATE, outcome, subject, reasons)


def is_close(stage: Stage, p99_ms: float, max_error_rate: float) -> bool:
    """Whether more requests are needed to say if the stage kept the promise: the limit lies within the 95 %
    interval of its p99, or more failed than may, though not so many that it must be more than chance."""
    unsure = stage.p99_low_ms <= p99_ms < stage.p99_high_ms
    excess = stage.errors - max_error_rate * stage.planned
    return unsure or 0 < excess <= 2 * (max_error_rate * stage.planned) ** 0.5 + 1


def judge_slo(load: Load, subject: str, advice: tuple[str, ...] = ()) -> Verdict:
    """Whether p99 and error rate held below, at and at twice the expected peak; where not, with what the plan
    advises. A p99 too close to its limit is inconclusive. Raises LoadTestInvalid for a void stage."""
    stages = [step.stage for step in load.candidate.of("peak")]
    for stage in stages:
        if void := fell_behind(stage, load.p99_ms):
            raise LoadTestInvalid(void)
    failures = [reason for stage in stages for reason in _failures(stage, load)]
    worst = max(stages, key=lambda stage: (stage.p99_ms, stage.rate_rps))
    failed, sent = (sum(getattr(stage, count) for stage in stages) for count in ("errors", "requests"))
    praise = (
        f"p99 {worst.p99_ms:.1f} ms at {worst.rate_rps:g}/s ({worst.name}), limit {load.p99_ms:g} ms; "
        f"{failed} of {sent} requests failed"
    )
    numbers = {f"p99_ms {stage.name}": stage.p99_ms for stage in stages}
    numbers |= {f"error_rate {stage.name}": stage.error_rate for stage in stages}
    if failures:
        return judge(WITHIN_SLO, subject, [*failures, *advice], praise, **numbers)
    last = stages[-1]
    if is_close(last, load.p99_ms, load.max_error_rate) and last.p99_high_ms > load.p99_ms:
        why = f"p99 is {_interval(last)} at {last.rate_rps:g}/s ({last.name}), too close to the limit of "
        return Verdict(WITHIN_SLO, "inconclusive", subject, (f"{why}{load.p99_ms:g} ms", *advice), numbers)
    return judge(WITHIN_SLO, subject, [], praise, **numbers)


def judge_overload(load: Load, subject: str) -> Verdict:
    """Whether, offered twice what it can do, the service answers what it lets in on time and says no to the
    rest at once. One that could not be overloaded from here passes; it is said how much it was offered."""
    steps = load.candidate.of("overload")
    others = [step.stage for step in load.candidate.steps if step.kind != "overload"]
    if gone := [stage for stage in others if stage.requests < stage.planned]:
        why = f"the service was gone when {gone[0].rate_rps:,.0f}/s were offered"
        return Verdict(BOUNDED, "fail", subject, (why,), {"offered_rps": gone[0].rate_rps})
    if not steps:
        most = max(step.stage.rate_rps for step in load.candidate.steps)
        why = f"no more than {most:,.0f}/s could be offered, which did not overload it"
        return Verdict(BOUNDED, "pass", subject, (why,), {"offered_rps": most})
    stage = steps[-1].stage
    bound_ms = MOST_LATE * max(load.max_latency_ms, load.p99_ms)
    failures = _overload_failures(stage, load, bound_ms)
    praise = (
        f"offered {stage.rate_rps:,.0f}/s it answered {stage.throughput_rps:,.0f}/s with a p99 of "
        f"{stage.p99_ms:.1f} ms, and refused {stage.refused:,} within {stage.refused_p99_ms:.1f} ms (p99)"
    )
    numbers = {
        name: getattr(stage, name) for name in ("rate_rps", "throughput_rps", "p99_ms", "refused_p99_ms")
    }
    return judge(BOUNDED, subject, failures, praise, **numbers)


def judge_leak(trial: Trial, subject: str) -> Verdict:
    """Whether memory and descriptors stayed as they were while the service was kept busy, and it answered."""
    steps = trial.of("soak")
    if len(steps) < 2:
        return Verdict(NO_LEAK, "inconclusive", subject, ("it was not kept busy for long enough",))
    first, last = steps[0].service, steps[-1].service
    requests = sum(step.stage.requests for step in steps[1:])
    grown_mib, more = last.memory_mib - first.memory_mib, last.descriptors - first.descriptors
    leaked = grown_mib * 2**20 / max(1, requests)
    answered = sum(step.stage.planned * (1 - step.stage.error_rate) for step in steps)
    planned, failures = sum(step.stage.planned for step in steps), []
    if answered < (1 - MOST_UNANSWERED) * planned:
        failures.append(f"at half of what it can do it answered {answered:,.0f} of {planned:,} requests well")
    if grown_mib > LEAST_GROWTH_MIB and leaked > MOST_LEAKED_BYTES:
        failures.append(
            f"memory grew by {grown_mib:.1f} MiB in {requests:,} requests, {leaked:,.0f} bytes each"
        )
    if more > MOST_DESCRIPTORS:
        failures.append(f"{more} more files and sockets are open after {requests:,} requests")
    praise = f"{grown_mib:+.1f} MiB and {more:+d} descriptors over {requests:,} requests"
    return judge(NO_LEAK, subject, failures, praise, grown_mib=grown_mib, descriptors=more, requests=requests)


def _failures(stage: Stage, load: Load) -> list[str]:
    at, failures = f"at {stage.rate_rps:g}/s ({stage.name})", []
    if stage.p99_ms > load.p99_ms:
        failures.append(f"p99 is {stage.p99_ms:.1f} ms {at}, the limit {load.p99_ms:g} ms")
    if stage.error_rate > load.max_error_rate:
        lost = stage.planned - stage.requests
        failures.append(
            f"{stage.errors + lost} of {stage.planned} requests failed {at} ({stage.error_rate:.2%}), "
            f"the limit is {load.max_error_rate:.2%}" + (f"; {lost} could not be sent" if lost else "")
        )
    return failures


def _overload_failures(stage: Stage, load: Load, bound_ms: float) -> list[str]:
    at, failures = f"when {stage.rate_rps:,.0f}/s are offered", []
    if stage.p99_ms > bound_ms:
        failures.append(f"p99 of what was let in is {stage.p99_ms:.1f} ms {at}, the bound {bound_ms:g} ms")
    if stage.refused_p99_ms > QUICK_SHARE * load.p99_ms:
        quick = QUICK_SHARE * load.p99_ms
        failures.append(f"99 % of refusals take {stage.refused_p99_ms:.1f} ms {at}, more than {quick:g} ms")
    if stage.throughput_rps < HELD_SHARE * load.candidate.knee_rps:
        failures.append(
            f"only {stage.throughput_rps:,.0f}/s are answered {at}, of the {load.candidate.knee_rps:,.0f}/s "
            "that it can do"
        )
    broken = stage.errors - stage.refused
    if broken > MOST_BROKEN * stage.requests:
        failures.append(f"{broken} of {stage.requests} requests are neither answered nor refused {at}")
    return failures


def _interval(stage: Stage) -> str:
    return f"{stage.p99_low_ms:.1f} to {stage.p99_high_ms:.1f} ms"

"""A built bento under load: its answers first, then what it can carry."""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq

from bentos.contract import Contract
from bentos.engines.engine import PROVIDERS, Engine
from bentos.manifest import Manifest
from pipelines.assets.common import Chapter, plain, report_metadata, verdict_check
from pipelines.assets.package import BENTO_FILE, LOAD_ROWS
from pipelines.core.capacity.calibrating import calibrated
from pipelines.core.capacity.course import Runner, run_course
from pipelines.core.capacity.foresight import cores_of
from pipelines.core.capacity.gate import (
    BOUNDED,
    NO_LEAK,
    WITHIN_SLO,
    judge_leak,
    judge_overload,
    judge_slo,
)
from pipelines.core.capacity.profile import Profile
from pipelines.core.capacity.proof import Load, Trial
from pipelines.core.capacity.readings import Reading
from pipelines.core.capacity.search import Proposal
from pipelines.core.errors import ServiceFailed
from pipelines.core.exhibits import seal
from pipelines.core.home import Home
from pipelines.core.latency import Offer, Samples, Stage, summarise
from pipelines.core.packing import Ask, judge_answers
from pipelines.core.rows import read_rows, sample, to_records, to_tensors
from pipelines.core.texts import tokenizer_of
from pipelines.core.verdict import Verdict
from pipelines.gateways.client import Client
from pipelines.gateways.deployments import Deployments, Staged
from pipelines.gateways.ledger import Ledger
from pipelines.gateways.notebooks import Notebooks
from pipelines.gateways.payloads import Payloads, payloads
from pipelines.gateways.prediction_log import logged_rows
from pipelines.gateways.tables import replacing_folder
from pipelines.gateways.traffic import NONE, LoadResult, Moment, Traffic, line

SMOKE_ROWS, SEED = 256, 0
CANDIDATE, PRODUCTION = "candidate", "production"
UNTRIED = "it was not put under load, as it does not answer like its model"


def load(chapter: Chapter) -> Sequence:
    """The chapter's assets and checks."""
    return [
        _load_test(chapter),
        verdict_check(
            chapter, "load_test", "answers_like_onnx",
            "The built bento, served from its own environment, answers like the ONNX file.",
        ),
        verdict_check(
            chapter, "load_test", WITHIN_SLO,
            "p99 and error rate hold below, at and at twice the expected peak.",
        ),
        verdict_check(
            chapter, "load_test", BOUNDED,
            "Offered twice what it can do, it answers what it lets in on time and refuses the rest at once.",
        ),
        verdict_check(
            chapter, "load_test", NO_LEAK, "Memory and descriptors stay as they are while it is kept busy.",
        ),
    ]  # fmt: skip


@dataclass(frozen=True)
class Contestant:
    """A built bento, served apart from production, and the requests that it is sent."""

    manifest: Manifest
    bento: Mapping
    staged: Staged
    requests: Payloads
    starting_seconds: float


def _load_test(chapter: Chapter) -> dg.AssetsDefinition:
    spec = chapter.spec

    @dg.asset(
        key=chapter.key("load_test"),
        deps=[chapter.key("bento")],
        partitions_def=chapter.versions,
        group_name=spec.name,
        kinds={"bentoml"},
        code_version=spec.serving.digest(),
    )
    def load_test(
        context: dg.AssetExecutionContext,
        home: dg.ResourceParam[Home],
        deployments: dg.ResourceParam[Deployments],
        ledger: dg.ResourceParam[Ledger],
        client: dg.ResourceParam[Client],
        traffic: dg.ResourceParam[Traffic],
        notebooks: dg.ResourceParam[Notebooks],
    ) -> dg.MaterializeResult:
        """The built bento, served from an environment of its own: its answers first, then load.

        It is asked the same rows as the ONNX file; one that answers wrongly is put under no load. Then come
        Poisson arrivals of real rows, one a request: half, once and twice the expected peak, up to the knee,
        twice that, and a soak. Latency counts from the intended start of each request, a stage in which the
        generator fell behind is void and measured again, all samples are kept. The version in production
        takes turns with it.
        """
        version = context.partition_key
        folder = chapter.of_version(home, "load_test", version)
        with replacing_folder(folder) as temp, ExitStack() as services:
            candidate = _staged(chapter, home, deployments, version, services)
            answers = _compare(chapter, home, candidate, partial(client.predict, candidate.staged.url))
            answers.save(temp)
            if answers.passed:
                contestants, serving = {CANDIDATE: candidate}, ledger.production(spec.name)
                if serving is not None and serving.version != version:
                    before = _staged(chapter, home, deployments, serving.version, services)
                    contestants[PRODUCTION] = before
                verdicts = _tried(chapter, home, contestants, client, traffic, _teller(context), temp)
            else:
                subject = candidate.bento["tag"]
                gates = (WITHIN_SLO, BOUNDED, NO_LEAK)
                verdicts = [Verdict(gate, "inconclusive", subject, (UNTRIED,)) for gate in gates]
            for verdict in verdicts:
                verdict.save(temp)
            seal(temp)
        report = {}
        if answers.passed:
            parameters = {"load_dir": str(folder), "model": spec.name, "version": version}
            report = report_metadata(notebooks.run("load_review", parameters, folder.parent / "load_report"))
        figures = {name: value for verdict in verdicts for name, value in plain(verdict.numbers).items()}
        return dg.MaterializeResult(
            metadata={"answers": answers.why, "load": verdicts[0].why, **figures, **report},
            data_version=dg.DataVersion(candidate.bento["tag"]),
        )

    return load_test


def _staged(
    chapter: Chapter, home: Home, deployments: Deployments, version: str, services: ExitStack
) -> Contestant:
    """The release of a version, served while `services` is open."""
    spec, source = chapter.spec, chapter.of_version(home, "bento", version)
    bento, manifest = json.loads((source / BENTO_FILE).read_text()), Manifest.load(source)
    began = time.perf_counter()
    staged = services.enter_context(deployments.stage(f"{spec.name}.v{version}", bento["tag"]))
    starting_seconds = time.perf_counter() - began
    requests = payloads("json", spec.name, manifest.contract, _rows(chapter, home, manifest.contract))
    return Contestant(manifest, bento, staged, requests, starting_seconds)


def _rows(chapter: Chapter, home: Home, contract: Contract) -> Sequence[Mapping]:
    """What is sent, as clients would."""
    spec = chapter.spec
    if spec.serving.load_from == "prediction_log":
        return logged_rows(home.prediction_log(spec.name), contract, LOAD_ROWS, SEED)
    rows = sample(read_rows(home.data(spec.data.reference), "reference"), LOAD_ROWS)
    return to_records(contract, rows)


def _compare(chapter: Chapter, home: Home, candidate: Contestant, ask: Ask) -> Verdict:
    """Whether the service answers held-out rows like the ONNX file it was built from."""
    spec, manifest, bento = chapter.spec, candidate.manifest, candidate.bento
    rows = sample(read_rows(home.data(spec.data.holdout), "holdout"), SMOKE_ROWS)
    contract, plan = manifest.contract, manifest.plan
    engine = Engine(Path(bento["model"]), contract, plan.threads, PROVIDERS[plan.device])
    tokenizer = tokenizer_of(contract, Path(bento["model"]).parent)
    expected = engine.run(to_tensors(contract, rows, "holdout", tokenizer))
    tolerance, records = max(spec.gate.parity, spec.gate.max_batch_shift), to_records(contract, rows)
    return judge_answers(ask, records, expected, contract, tolerance, bento["tag"], plan.max_request_rows)


def _tried(
    chapter: Chapter,
    home: Home,
    contestants: Mapping[str, Contestant],
    client: Client,
    traffic: Traffic,
    tell: Callable[[Moment], None],
    folder: Path,
) -> list[Verdict]:
    """Take the services over the course and judge the candidate. `folder` keeps figures and samples."""
    serving, candidate = chapter.spec.serving, contestants[CANDIDATE]
    runners = {name: _runner(contestant, client, traffic, tell) for name, contestant in contestants.items()}
    slo = candidate.manifest.slo
    run_course(runners, slo, serving.load_seconds, serving.soak_seconds)
    trials = {name: _trial(contestants[name], runner) for name, runner in runners.items()}
    load = Load(
        slo.p99_ms, slo.max_error_rate, slo.expected_peak_rps,
        candidate.manifest.plan.max_latency_ms, serving.price_per_core_hour,
        sum(runner.offered_seconds for runner in runners.values()),
        sum(contestant.starting_seconds for contestant in contestants.values()), **trials,
    )  # fmt: skip
    load.save(folder)
    tables = [_table(name, runner) for name, runner in runners.items()]
    pq.write_table(pa.concat_tables(tables), folder / "samples.parquet")
    planned = chapter.of_version(home, "serving_plan", candidate.manifest.version)
    proposal, subject = Proposal.load(planned), candidate.bento["tag"]
    proposal.save(folder)
    _profile(Profile.load(planned), candidate, runners[CANDIDATE]).save(folder)
    return [
        judge_slo(load, subject, proposal.advice),
        judge_overload(load, subject),
        judge_leak(load.candidate, subject),
    ]


def _runner(
    contestant: Contestant, client: Client, traffic: Traffic, tell: Callable[[Moment], None]
) -> Runner:
    url = contestant.staged.url

    def send(offer: Offer, seed: int) -> tuple[Stage, Samples]:
        try:
            sent = traffic.run(url, contestant.requests, [offer], seed, tell)
        except ServiceFailed:  # it is gone since the last stage
            return summarise(offer, len(offer.times(seed)), NONE), NONE
        return sent.stages[0], sent.samples[0]

    def watch() -> Reading | None:
        try:
            return Reading(contestant.staged.usage(), client.metrics(url))
        except ServiceFailed:
            return None

    return Runner(send, watch)


def _trial(contestant: Contestant, runner: Runner) -> Trial:
    manifest = contestant.manifest
    return Trial(
        manifest.version,
        manifest.release_id,
        manifest.rung,
        cores_of(manifest.plan),
        tuple(runner.steps),
        runner.knee_rps,
        runner.knee_reached,
    )


def _profile(profile: Profile, candidate: Contestant, runner: Runner) -> Profile:
    """What was measured for the plan, with what the service adds where it is busy but not too busy: in the
    soak; at half of the expected peak, where there was none."""
    busy = next((at for at, step in enumerate(runner.steps) if step.kind == "soak"), 0)
    step, samples = runner.steps[busy], runner.samples[busy]
    return calibrated(profile, candidate.manifest.plan, samples, step.service.cpu_us)


def _table(name: str, runner: Runner) -> pa.Table:
    """The raw samples of a runner, by stage."""
    whole = LoadResult([step.stage for step in runner.steps], runner.samples).table()
    return whole.add_column(0, "release", pa.repeat(name, len(whole)))


def _teller(context: dg.AssetExecutionContext) -> Callable[[Moment], None]:
    """Where the load test stands: a live line at a terminal, a line a stage in Dagster's log."""

    def tell(moment: Moment) -> None:
        is_over = moment.seconds >= moment.of_seconds
        if is_over:
            context.log.info(line(moment))
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[2K{'' if is_over else line(moment)}")
            sys.stderr.flush()

    return tell

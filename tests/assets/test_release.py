"""The release path as its real job: what passes serves, what does not leaves production as it was."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bentos.manifest import MODEL_FILE, sha256
from bentos.watching.segments import NAME
from pipelines.core.dossier import Dossier
from pipelines.core.entries import TAKES_OVER
from pipelines.core.errors import ServiceFailed, SettingsInvalid
from pipelines.core.evidence import examine
from pipelines.core.how import HOW_FILE, replay
from pipelines.core.ladder import Ladder
from pipelines.core.rungs import int8_static
from pipelines.gateways.client import Client, HttpClient
from pipelines.gateways.deployments import Deployments
from pipelines.runner import RunFailed, Runner
from tests.assets.world import INPUTS, OUTPUTS, TRUTH, World, rows, save_net
from tests.fakes.client import FakeClient
from tests.fakes.deployments import FakeDeployments
from tests.fakes.envoy import FakeRouter
from tests.fakes.processes import FakeProcesses
from tests.fakes.traffic import FakeTraffic

PATH = [
    "registered_model",
    "onnx_model",
    "fp32",
    "release_model",
    "serving_plan",
    "bento",
    "load_test",
    "drill",
    "deployment",
]
WORSE = tuple(-weight for weight in TRUTH)


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256(path) for path in folder.rglob("*") if path.is_file()}


def test_a_version_that_passes_everything_serves(world):
    outcome = world.release()
    assert outcome.success and outcome.made == [*PATH, "release_report", "rollout_report"]
    assert {name: check.passed for name, check in outcome.checks.items()} == {
        "contract_holds": True,
        "parity": True,
        "accuracy_non_inferior_to_fp32": True,
        "accuracy_non_inferior_to_production": True,
        "contract_compatible_with_production": True,
        "fairness_within_limits": True,
        "plan_keeps_promise": True,
        "answers_like_onnx": True,
        "within_slo": True,
        "overload_is_bounded": True,
        "no_leak": True,
        "rollback_rehearsed": True,
        "healthy": True,
        "rolled_out": True,
    }
    assert world.serving == "1"
    entry = world.ledger.production("tiny")
    assert entry.evidence["model_sha256"] == sha256(world.home.root / entry.artifact / MODEL_FILE)
    assert entry.evidence.keys() >= outcome.checks.keys() - {"healthy", "rolled_out", "plan_keeps_promise"}
    assert [name for name, _ in world.notebooks.runs] == ["accuracy_review", "load_review", "release_review"]
    assert world.left_behind() == []


def test_the_evidence_of_a_release_outlives_the_next_judgement_of_its_version(world):
    world.release()
    made = Dossier.load(world.artifact("1", "dossier"), world.ledger.production("tiny"))
    assert world.run("tiny_release", "1").success
    found = list(examine(made, world.root, world.containers.digest, world.home.evidence))
    assert [each.fault for each in found if not each.holds] == []
    assert {"load_test/load.json", "drill/drill.json"} <= {each.what for each in found if each.kept}


def test_versions_as_good_as_production_take_over_even_a_former_one(world):
    world.release()
    outcome = world.release((0.5, 1.5, -1.01))
    assert outcome.success and world.serving == "2"
    assert "against version 1" in outcome.says("accuracy_non_inferior_to_production")
    outcome = world.run("tiny_release", "1")
    assert "against version 2" in outcome.says("accuracy_non_inferior_to_production")
    assert world.serving == "1"
    took_over = [each for each in world.ledger.history("tiny") if each.action in TAKES_OVER]
    assert [each.release.version for each in took_over if each.release] == ["1", "2", "1"]


def test_a_worse_version_stops_at_its_gate_and_no_way_leads_around_it(world):
    world.release()
    outcome = world.release(WORSE)
    assert not outcome.success
    assert outcome.made == PATH[: PATH.index("release_model") + 1]
    assert not outcome.checks["accuracy_non_inferior_to_production"].passed
    assert "auc against version 1, more than 0.005" in outcome.says("accuracy_non_inferior_to_production")
    assert world.serving == "1" and world.left_behind() == []
    assert world.run("tiny_release", "2", "serving_plan", "bento", "load_test").success
    failure = world.run("tiny_release", "2", "deployment").failure
    assert "the gate accuracy_non_inferior_to_production says fail: loses 0." in failure
    assert world.serving == "1"


def test_a_service_that_answers_otherwise_is_not_deployed(world):
    world.client = FakeClient(world.bentos, error=0.01)
    outcome = world.release()
    assert outcome.made[-1] == "load_test" and not outcome.checks["answers_like_onnx"].passed
    assert "probability differs from the ONNX file by up to 0.01" in outcome.says("answers_like_onnx")
    assert "not put under load" in outcome.says("within_slo") and not world.traffic.runs
    assert world.serving is None


@pytest.mark.parametrize(
    ("traffic", "says"),
    [
        (FakeTraffic(latency_ms=250), "p99 is 250.0 ms at 50/s (peak), the limit 100 ms"),
        (FakeTraffic(failing=5), "requests failed at 50/s (peak)"),
    ],
    ids=["slow", "failing"],
)
def test_a_service_that_breaks_its_promise_is_not_deployed(world, traffic, says):
    world.traffic = traffic
    outcome = world.release()
    assert outcome.made[-1] == "load_test" and not outcome.checks["within_slo"].passed
    assert says in outcome.says("within_slo") and world.serving is None


def test_the_load_test_can_send_what_production_was_sent(world):
    world.settings["serving"]["load_from"] = "prediction_log"
    outcome = world.release()
    assert "The prediction log is" in outcome.failure and "it holds no rows" in outcome.failure
    log = world.home.prediction_log("tiny")
    log.mkdir(parents=True)
    asked = {"input_carrier": ["B6"], "input_age": [1.5], "input_delay": [0.5]}
    pq.write_table(pa.table(asked), log / NAME.replace("*", "1"))
    assert world.release().success
    body = {"rows": [{"carrier": "B6", "age": 1.5, "delay": 0.5}]}
    assert [json.loads(each) for each in world.traffic.bodies] == [body]


def test_a_load_test_whose_generator_fell_behind_is_void(world):
    world.traffic = FakeTraffic(latency_ms=90, lag_ms=80)
    outcome = world.release()
    assert "The load test is void" in outcome.failure and "expected_peak_rps" in outcome.failure
    assert not world.artifact("1", "load_test").exists() and world.serving is None


def test_a_rung_that_cannot_be_built_does_not_cost_the_release(world, monkeypatch):
    def broken(recipe):
        recipe.target.write_bytes(b"half a model")
        raise KeyError("no quantizer for Gemm")

    monkeypatch.setattr(int8_static, "build", broken)
    world.settings["gate"]["rungs"] = ["fp32", "int8_static"]
    assert world.release().success and world.serving == "1"
    ladder = Ladder.load(world.artifact("1", "release_model") / "ladder.json")
    assert ladder.chosen == "fp32"
    assert "no quantizer for Gemm" in ladder.rungs[1].why and not ladder.rungs[1].built


def test_too_few_holdout_rows_do_not_release(world):
    world.write("data/holdout.parquet", rows(2, count=50))
    outcome = world.release()
    says = "inconclusive: fp32: 50 holdout rows are fewer than 200"
    assert says in outcome.says("accuracy_non_inferior_to_fp32")
    assert not outcome.success and outcome.made[-1] == "release_model"
    failure = world.run("tiny_release", "1", "bento").failure
    assert "The release model is not deployed: no rung passed the gate" in failure


def test_every_artifact_can_be_made_again_without_dagster(world, tmp_path):
    world.settings["gate"]["rungs"] = ["fp32", "int8_static"]
    world.release()
    world.release((0.5, 1.5, -1.01))
    for asset in ("onnx_model", "fp32", "int8_static", "release_model"):
        found = replay(world.artifact("2", asset) / HOW_FILE, tmp_path / asset)
        assert found.outputs_same and not found.outputs_differ and not found.versions_differ, asset


def test_a_version_that_clients_cannot_talk_to_needs_leave(world):
    world.release()
    world.settings["ranges"]["age"] = [-5, 5]
    del world.definitions
    outcome = world.release()
    assert not outcome.success and world.serving == "1"
    says = outcome.says("contract_compatible_with_production")
    assert "input age" in says and "allow_breaking_contract" in says
    world.settings["gate"]["allow_breaking_contract"] = True
    del world.definitions
    assert world.run("tiny_release", "2").success and world.serving == "2"


def test_gaps_between_groups_are_judged_where_limits_are_set(world):
    world.settings["gate"]["fairness"] = {"columns": ["carrier"], "max_gap": 0.01}
    world.settings["gate"]["min_slice_rows"] = 50
    outcome = world.release()
    assert not outcome.success and world.serving is None
    assert "positive decisions" in outcome.says("fairness_within_limits")


# What is wrong with the data or the model ends in a sentence.


@pytest.mark.parametrize(
    ("what", "damage", "says"),
    [
        ("reference", lambda frame: frame.drop(columns="age"), "age must be a column"),
        ("calibration", lambda frame: frame.drop(columns="age"), "age must be a column"),
        ("holdout", lambda frame: frame.drop(columns="age"), "age must be a column"),
        ("holdout", lambda frame: frame.astype({"age": str}), "age must hold numbers"),
        (
            "holdout",
            lambda frame: frame.assign(age=frame["age"].where(frame.index != 3)),
            "age must never be empty or NaN, but 1 of 600 rows breaks this",
        ),
        ("holdout", lambda frame: frame.drop(columns="y"), "y must be a column"),
        ("holdout", lambda frame: frame.head(0), "the table must hold at least one row"),
    ],
    ids=["reference", "calibration", "missing", "mistyped", "NaN", "no label", "empty"],
)
def test_data_that_breaks_the_contract_is_named(world, what, damage, says):
    world.write(f"data/{what}.parquet", damage(rows(0)))
    outcome = world.release()
    assert not outcome.success and outcome.made == ["registered_model"]
    assert f"{what}: {says}" in outcome.says("contract_holds")
    assert world.left_behind() == []


def test_a_missing_file_is_named(world):
    world.home.data("data/reference.parquet").unlink()
    outcome = world.release()
    assert outcome.failure.endswith(
        f"The reference file {world.home.data('data/reference.parquet')} does not exist; write it, or "
        "correct its path in defs.yaml."
    )
    assert outcome.made == [] and not world.artifact("1", "registered_model").exists()
    assert world.left_behind() == []


def test_a_file_that_is_not_parquet_is_named(world):
    world.home.data("data/holdout.parquet").write_text("id,age\n1,2\n")
    failure = world.release().failure
    assert "The holdout file" in failure and "write it as Parquet" in failure


def test_a_pickled_model_is_refused(world):
    version = world.registry.add_refused("tiny", "it is a pickle", "log it again as pt2")
    failure = world.run("tiny_release", version).failure
    assert "tiny version 1 is refused: it is a pickle; log it again as pt2." in failure


def test_ranges_of_no_input_are_refused(world):
    world.settings["ranges"] = {"agee": [0, 1]}
    failure = world.release().failure
    assert "tiny breaks the contract: ranges name agee" in failure and world.left_behind() == []


def test_a_model_whose_file_is_not_its_signature_is_refused(world):
    file = save_net(world.root / "net.onnx")
    outcome = world.run("tiny_release", world.registry.add("tiny", file, INPUTS[1:], OUTPUTS))
    assert "its inputs are age, carrier, delay where its signature has age, delay" in outcome.failure
    assert outcome.made == ["registered_model"] and world.left_behind() == []


# A deployment that is launched alone reads the evidence again.


def test_a_deployment_without_any_evidence_is_refused(world):
    failure = world.run("tiny_release", world.register(), "deployment").failure
    assert "tiny version 1 is not deployed" in failure and "run its whole release again" in failure
    assert world.serving is None


@pytest.fixture(scope="module")
def judged(tmp_path_factory) -> World:
    """Version 1 serves, version 2 has passed everything."""
    world = World(tmp_path_factory.mktemp("judged"))
    world.release()
    world.run("tiny_release", world.register((0.5, 1.5, -1.01)), *PATH[:-1])
    return world


def _one_missing(artifacts: Path) -> None:
    (artifacts / "2" / "load_test" / "within_slo.verdict.json").unlink()


def _foreign(artifacts: Path) -> None:
    shutil.copytree(artifacts / "1" / "load_test", artifacts / "2" / "load_test", dirs_exist_ok=True)


def _altered(artifacts: Path) -> None:
    (artifacts / "2" / "release_model" / MODEL_FILE).write_bytes(b"other weights")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_one_missing, "the gate within_slo was never judged"),
        (_foreign, "the verdict of answers_like_onnx is about another artifact"),
        (_altered, "release_model/model.onnx is not what it was"),
    ],
)
def test_a_deployment_with_a_gap_in_its_evidence_is_refused(judged, tmp_path, damage, says):
    artifacts, kept = judged.home.artifact("tiny", "", ""), tmp_path / "kept"
    shutil.copytree(artifacts, kept)
    damage(artifacts)
    failure = judged.run("tiny_release", "2", "deployment").failure
    shutil.rmtree(artifacts)
    shutil.copytree(kept, artifacts)
    assert "tiny version 2 is not deployed" in failure and says in failure
    assert judged.serving == "1"


def test_a_deployment_with_good_evidence_may_be_launched_alone_once(judged):
    assert judged.run("tiny_release", "2", "deployment").success and judged.serving == "2"
    failure = judged.run("tiny_release", "1", "deployment").failure
    assert "it was not compared with version 2, which serves now" in failure
    assert judged.serving == "2"


# What fails in the middle leaves what was there.


class DyingClient(Client):
    """Stands for a service that dies while it is asked."""

    def predict(self, url, rows):
        raise ServiceFailed("tiny.stage", "does not answer")

    def metrics(self, url):
        raise ServiceFailed("tiny.stage", "does not answer")


def test_a_failure_in_the_middle_leaves_the_former_artifacts(tmp_path):
    world = World(tmp_path)
    fixed = {"workers": 1, "threads": 1, "replicas": 1, "max_queue_rows": 1000, "max_latency_ms": 100}
    world.settings["serving"] |= fixed  # or what is measured anew could make another release
    world.release()
    before = contents(world.artifact("1", ""))
    again = World(tmp_path, settings=world.settings)
    again.client, again.registry = DyingClient(), world.registry
    outcome = again.run("tiny_release", "1")
    assert "The service tiny.stage does not answer" in outcome.failure
    after = contents(world.artifact("1", ""))
    kept = {path for path in before if path.startswith(("bento/", "load_test/", "release_report/"))}
    assert kept and {path: after[path] for path in kept} == {path: before[path] for path in kept}
    assert again.left_behind() == [] and world.serving == "1"


def test_the_runner_says_why_and_brings_only_what_is_stale_up_to_date(world):
    lines: list[str] = []
    runner = Runner(world.definitions, world.instance, lines.append)
    world.instance.add_dynamic_partitions("tiny_versions", [world.register(), world.register(WORSE)])
    assert runner.refresh("tiny_release", "1") == [*PATH, "release_report", "rollout_report"]
    assert runner.refresh("tiny_release", "1") == []
    with pytest.raises(RunFailed, match=r"^tiny/release_model accuracy\w+production: fail: loses 0"):
        runner.refresh("tiny_release", "2")
    with pytest.raises(RunFailed, match="accuracy_non_inferior_to_production"):
        runner.refresh("tiny_release", "2")
    assert world.serving == "1"
    assert "… tiny/registered_model" in lines and "tiny/load_test" in runner.times.steps


def test_the_runner_says_the_sentence_of_a_step_that_failed(world):
    world.home.data("data/holdout.parquet").unlink()
    world.instance.add_dynamic_partitions("tiny_versions", [world.register()])
    with pytest.raises(RunFailed, match=r"^tiny/registered_model: The holdout file .* does not exist"):
        Runner(world.definitions, world.instance, lambda line: None).refresh("tiny_release", "1")


@pytest.mark.parametrize(("job", "partition", "there"), [
    ("tiny_release", "1", "tiny/registered_model has none yet"),
    ("tiny_scoring", "2030-01", "tiny/scoring_input has 2026-01 to 2026-03"),
])  # fmt: skip
def test_the_runner_refuses_a_partition_that_there_is_not(world, job, partition, there):
    with pytest.raises(SettingsInvalid, match=f"^The partition is '{partition}'; {there}.$"):
        Runner(world.definitions, world.instance, lambda line: None).refresh(job, partition)


@pytest.mark.e2e
def test_production_answers_over_http_while_a_worse_version_is_stopped(world):
    processes = FakeProcesses(world.root / "logs")
    world.deployments = Deployments(processes, FakeRouter(), world.bentos, world.ledger, ready_seconds=30)
    world.deployments.rehearse = FakeDeployments(world.ledger).rehearse  # its own test has a real router
    world.client = HttpClient()
    try:
        assert world.release().success
        assert not world.release(WORSE).success
        entry, status = world.ledger.production("tiny"), world.deployments.status("tiny")
        assert entry.version == "1" and status["ready"]
        url = world.deployments.router.address
        [answer] = HttpClient().predict(url, [{"carrier": "AA", "age": 0.5, "delay": 0.25}])
        assert 0 < answer["probability"] < 1
        assert list(processes.states()) == [f"tiny-{entry.release_id}"]
    finally:
        processes.shutdown()

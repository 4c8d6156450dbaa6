"""The assembled project as a list: a reviewer sees in a diff what changed in the graph."""

import json
import re
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from pipelines.assets.common import CODE_LOCATION
from pipelines.definitions import defs

HEAVY = {"torch", "mlflow", "great_expectations", "evidently", "papermill", "bentoml", "onnx", "onnxruntime"}

ASSETS = """
flights             ← –                                               · –
labels              ← flights                                         · month
months              ← flights                                         · month
splits              ← flights                                         · –
trained_model       ← splits                                          · –
registered_model    ← splits, trained_model                           · flight_delay_versions
onnx_model          ← registered_model                                · flight_delay_versions
fp32                ← onnx_model                                      · flight_delay_versions
int8_dynamic        ← onnx_model                                      · flight_delay_versions
int8_per_row        ← onnx_model                                      · flight_delay_versions
int8_static         ← onnx_model                                      · flight_delay_versions
release_model       ← fp32, int8_dynamic, int8_per_row, int8_static   · flight_delay_versions
serving_plan        ← release_model                                   · flight_delay_versions
bento               ← release_model, serving_plan                     · flight_delay_versions
load_test           ← bento                                           · flight_delay_versions
drill               ← load_test                                       · flight_delay_versions
deployment          ← drill, load_test                                · flight_delay_versions
release_report      ← deployment, load_test                           · flight_delay_versions
rollout_report      ← deployment                                      · flight_delay_versions
scoring_input       ← months                                          · month
scores              ← deployment, scoring_input                       · month
drift               ← scores                                          · month
performance         ← labels, scores                                  · month
monitoring_report   ← drift, performance                              · month
"""

CHECKS = """
registered_model  contract_holds                        blocks
onnx_model        parity                                blocks
release_model     accuracy_non_inferior_to_fp32         blocks
release_model     accuracy_non_inferior_to_production   blocks
release_model     contract_compatible_with_production   blocks
release_model     fairness_within_limits                blocks
serving_plan      plan_keeps_promise                    tells
load_test         answers_like_onnx                     blocks
load_test         within_slo                            blocks
load_test         overload_is_bounded                   blocks
load_test         no_leak                               blocks
drill             rollback_rehearsed                    blocks
deployment        healthy                               tells
deployment        rolled_out                            tells
scoring_input     expectations                          blocks
scores            complete                              blocks
drift             no_drift                              tells
performance       performance_holds                     tells
"""

JOBS = {
    "flight_delay_release": "registered_model onnx_model fp32 int8_dynamic int8_per_row int8_static "
    "release_model serving_plan bento load_test drill deployment release_report rollout_report",
    "flight_delay_rollout": "deployment release_report rollout_report",
    "flight_delay_scoring": "months scoring_input scores drift monitoring_report",
    "flight_delay_performance": "labels performance",
}


@pytest.fixture(scope="module")
def project() -> dg.Definitions:
    return defs()


@pytest.fixture(scope="module")
def graph(project):
    return project.resolve_asset_graph()


def listed(text: str) -> set[tuple[str, ...]]:
    return {tuple(re.split(r"  +(?:[←·] )?", line)) for line in text.strip().splitlines()}


def test_every_asset_with_its_dependencies_and_partitions(graph):
    found = set()
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert key.path[0] == node.group_name == "flight_delay"
        partitions = getattr(node.partitions_def, "name", None) or ("month" if node.is_partitioned else "–")
        parents = ", ".join(sorted(parent.path[-1] for parent in node.parent_keys)) or "–"
        found.add((key.path[-1], parents, partitions))
    assert found == listed(ASSETS)


def test_every_check_and_whether_it_blocks(graph):
    found = {
        (key.asset_key.path[-1], key.name, "blocks" if graph.get_check_spec(key).blocking else "tells")
        for key in graph.asset_check_keys
    }
    assert found == listed(CHECKS)


def test_every_job_with_its_assets(project):
    jobs = {
        job: sorted(key.path[-1] for key in project.resolve_job_def(job).asset_layer.selected_asset_keys)
        for job in JOBS
    }
    assert jobs == {job: sorted(assets.split()) for job, assets in JOBS.items()}
    assert {job.name for job in project.jobs or []} == set(JOBS)


@pytest.mark.parametrize(
    ("schedule", "month"),
    [("flight_delay_scoring_schedule", "2013-05"), ("flight_delay_performance_schedule", "2013-04")],
)
def test_a_tick_asks_for_the_month_that_is_due(project, schedule, month):
    due = project.get_schedule_def(schedule)
    assert due.cron_schedule == "0 6 1 * *" and due.execution_timezone in (None, "UTC")
    assert due.default_status == dg.DefaultScheduleStatus.RUNNING
    with dg.build_schedule_context(
        scheduled_execution_time=datetime(2013, 6, 1, 6, tzinfo=UTC),
        repository_def=project.get_repository_def(),
        instance=dg.DagsterInstance.ephemeral(),
    ) as context:
        ticked = due.evaluate_tick(context)
    assert [request.partition_key for request in ticked.run_requests or []] == [month]


def test_schedules_and_sensors_are_those(project):
    assert {schedule.name for schedule in project.schedules or []} == {
        "flight_delay_scoring_schedule",
        "flight_delay_performance_schedule",
    }
    assert [sensor.name for sensor in project.sensors or []] == [
        "flight_delay_registry",
        "flight_delay_rollouts",
    ]
    sensor = project.get_sensor_def("flight_delay_registry")
    assert sensor.job_name == "flight_delay_release"
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING


def test_every_asset_and_check_reads_in_the_catalogue(graph):
    for key in graph.get_all_asset_keys():
        description = graph.get(key).description or ""
        sentences = re.findall(r"[A-Z][^.]+\.(?=\s|$)", " ".join(description.split()))
        assert len(sentences) >= 2, f"{key.to_user_string()}: {description!r}"
    for key in graph.asset_check_keys:
        assert re.fullmatch(r"\S.{20,}\.", graph.get_check_spec(key).description or ""), key


def test_looking_at_the_project_loads_no_heavy_library():
    program = (
        "import json, sys; from pipelines.definitions import defs; defs(); "
        f"print(json.dumps(sorted({HEAVY!r} & set(sys.modules))))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(found.stdout.splitlines()[-1]) == []


def test_the_link_to_a_report_names_the_code_location():
    settings = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    assert settings["tool"]["dg"]["project"]["code_location_name"] == CODE_LOCATION

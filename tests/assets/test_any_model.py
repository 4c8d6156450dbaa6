"""Models that differ in kind: each one's whole release and the jobs of a month, as its real jobs.

Whatever a model takes and answers, it is exported, judged by its own metric, served by its contract, scored
and watched; and what is wrong with a model, its data or its settings ends in a sentence.
"""

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from io import StringIO

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from torch import nn

from bentos.engines.engine import Engine
from bentos.manifest import MODEL_FILE, Manifest, sha256, verified_model
from bentos.schema import columns, prediction_type, predictions, row_type
from pipelines.components import ServedModel
from pipelines.core.drift import DriftReport
from pipelines.core.errors import SettingsInvalid
from pipelines.core.ladder import Ladder, RungReport
from pipelines.core.metrics import metric_of
from pipelines.core.performance import PerformanceReport
from pipelines.core.rows import to_array, to_records, to_tensors
from pipelines.core.texts import Tokenizes, given_fields, tokenizer_of
from pipelines.demo import _print_address
from pipelines.gateways.registry import Tensor
from pipelines.summary import print_ladder
from tests.assets.kinds import (
    EMBEDDING,
    EXTERNAL,
    KINDS,
    MIXED,
    REGRESSION,
    ROWS,
    SEQUENCES,
    TEXTS,
    Kind,
    Texts,
    archive,
    beside,
    many_classes,
    texts,
    word_tokenizer,
)
from tests.assets.world import MONTH, Outcome, World
from tests.fakes.client import asked


@dataclass(frozen=True)
class Life:
    """A model that was released, and what came of a month; `month` are its rows with their labels."""

    kind: Kind
    world: World
    month: pd.DataFrame
    released: Outcome
    scored: Outcome
    measured: Outcome

    @property
    def manifest(self) -> Manifest:
        return Manifest.load(self.world.artifact("1", "bento"))

    @property
    def engine(self) -> Engine:
        return Engine(self.world.artifact("1", "release_model") / MODEL_FILE, self.manifest.contract)

    @property
    def tokenizer(self) -> Tokenizes | None:
        return tokenizer_of(self.manifest.contract, self.world.artifact("1", "release_model"))

    @property
    def takes(self) -> set[str]:
        """The keys of a row."""
        return {field.name for field in given_fields(self.manifest.contract, self.month)}

    def kept(self, asset: str, file: str):
        return self.world.home.month("tiny", asset, MONTH) / file


@pytest.fixture(scope="module", params=KINDS)
def life(request, tmp_path_factory) -> Life:
    kind, month = KINDS[request.param], KINDS[request.param].rows(7)
    world = kind.world(tmp_path_factory.mktemp("world"))
    released = world.run("tiny_release", kind.register(world))
    world.write(f"data/scoring/{MONTH}.parquet", month)
    world.write(f"data/labels/{MONTH}.parquet", month[["id", world.settings["data"]["label"]]])
    scored, measured = world.run("tiny_scoring", MONTH), world.run("tiny_performance", MONTH)
    return Life(kind, world, month, released, scored, measured)


def test_it_is_released_and_serves(life):
    assert life.released.success, life.released.failure
    assert all(check.passed for check in life.released.checks.values())
    assert (
        life.released.made[-3:] == ["deployment", "release_report", "rollout_report"]
        and life.world.serving == "1"
    )


def test_its_ladder_has_the_figures_of_its_metric(life):
    ladder = Ladder.load(life.world.artifact("1", "release_model") / "ladder.json")
    best, gate = ladder.winner, life.world.settings["gate"]
    assert ladder.metric == gate["metric"] and [rung.rung for rung in ladder.rungs] == gate["rungs"]
    assert best.low <= best.value <= best.high and best.low < best.high
    assert best.output_shifts.keys() == {tensor.name for tensor in life.kind.outputs}
    for rung in (rung for rung in ladder.rungs if rung.built):
        assert None not in (rung.value, rung.drop, rung.drop_bound, rung.batch_shift, rung.overall_speedup)
    print_ladder(life.world.artifact("1", ""), console := Console(file=StringIO(), width=200))
    assert f"{best.value:.4f}" in console.file.getvalue()


def test_a_month_has_one_score_a_row_and_vectors_are_lists(life):
    assert life.scored.success and life.scored.checks["complete"].passed
    table = pq.read_table(life.kept("scores", "scores.parquet"))
    assert table.column_names == ["id", *(tensor.name for tensor in life.kind.outputs)]
    assert (table["id"].to_numpy() == life.month["id"]).all()
    expected = life.engine.run(to_tensors(life.engine.contract, life.month, "month", life.tokenizer))
    for tensor in life.kind.outputs:
        assert str(table.schema.field(tensor.name).type).startswith("list") == (len(tensor.shape) > 1)
        found = to_array(table[tensor.name].to_pandas(), "scores")
        assert found.shape == expected[tensor.name].shape
        np.testing.assert_allclose(found, expected[tensor.name], rtol=1e-5, atol=1e-6)


def test_the_month_is_watched_column_by_column(life):
    report = DriftReport.load(life.kept("drift", "drift.json"))
    numbers = [t.name for t in (*life.kind.inputs, *life.kind.outputs) if len(t.shape) == 1]
    numbers += ["text_length"] if life.kind is TEXTS else []
    assert [column.column for column in report.columns] == numbers
    assert report.verdict.outcome == ("pass" if numbers else "inconclusive")
    assert numbers or "no column holds one value a row" in report.verdict.why


def test_the_month_is_held_to_the_same_metric(life):
    report = PerformanceReport.load(life.kept("performance", "performance.json"))
    settings = life.world.settings
    metric = metric_of(settings["gate"]["metric"], 0.5)
    scores = pd.read_parquet(life.kept("scores", "scores.parquet"))
    judged = scores[settings["gate"].get("output", life.kind.outputs[0].name)]
    value = metric.value(to_array(life.month[settings["data"]["label"]], ""), to_array(judged, ""))
    assert life.measured.checks["performance_holds"].passed
    assert report.metric == metric.name and report.value == pytest.approx(value, rel=1e-6)


def test_the_service_takes_its_rows_and_answers_like_the_batch(life):
    contract, some = life.manifest.contract, life.month.head(9)
    rows = TypeAdapter(list[row_type(contract)])
    records = to_records(contract, some)
    answers = predictions(life.engine.predict(columns(contract, asked(contract, records, life.tokenizer))))
    assert TypeAdapter(list[prediction_type(contract)]).validate_json(json.dumps(answers)) == answers
    scores = pd.read_parquet(life.kept("scores", "scores.parquet")).head(9)
    for tensor in life.kind.outputs:
        found = np.array([answer[tensor.name] for answer in answers], np.float64)
        np.testing.assert_allclose(found, to_array(scores[tensor.name], ""), rtol=1e-5, atol=1e-6)
    for taken in life.takes:
        with pytest.raises(ValidationError, match=taken):
            rows.validate_json(
                json.dumps([{name: row[name] for name in row if name != taken} for row in records])
            )


def test_what_is_sent_under_load_is_what_the_service_takes(life):
    Request = TypeAdapter(dict[str, list[row_type(life.manifest.contract)]])
    assert len(life.world.traffic.bodies) == 600
    assert all(len(Request.validate_json(body)["rows"]) == 1 for body in life.world.traffic.bodies)


def test_the_request_that_is_printed_can_be_pasted(life):
    console = Console(file=StringIO(), soft_wrap=True, highlight=False)
    _print_address(life.world, ServedModel(**life.world.settings), console)
    *_, line = console.file.getvalue().strip().splitlines()
    body = json.loads(shlex.split(line)[-1])
    (row,) = TypeAdapter(list[row_type(life.manifest.contract)]).validate_json(json.dumps(body["rows"]))
    assert row.keys() == life.takes


def test_what_the_service_plans_by_comes_from_the_release(life):
    plan, contract = life.manifest.plan, life.manifest.contract
    longest = 8 if life.kind in (MIXED, SEQUENCES, TEXTS) else 0
    assert [rows for rows, length, ms in plan.costs if length == longest and ms > 0] == [1, 2, 4, 8]
    assert plan.lengths == ((8,) if longest else ())
    assert (contract.text is not None) == (life.kind is TEXTS)
    axes = {field.axes for field in contract.inputs if len(field.shape) > 1}
    assert axes == ({("length",)} if longest else axes & {()})


def test_the_tokenizer_is_packed_and_its_digest_kept(life):
    assert life.manifest.files.keys() == ({"tokenizer.json"} if life.kind is TEXTS else set())
    packed = life.world.bentos.folder / "tiny" / life.manifest.release_id
    assert verified_model(packed, life.manifest).exists()
    for name, digest in life.manifest.files.items():
        assert {sha256(path) for path in life.world.root.rglob(name)} == {digest}


def test_another_tokenizer_is_another_release(tmp_path):
    kinds = (TEXTS, replace(TEXTS, tokenizer=lambda path: word_tokenizer(path, cut=7)))
    made = []
    for at, kind in enumerate(kinds):
        world = kind.world(tmp_path / str(at))
        world.run("tiny_release", kind.register(world))
        made.append(Manifest.load(world.artifact("1", "bento")))
    assert made[0].sha256 == made[1].sha256 and made[0].release_id != made[1].release_id


def test_texts_are_scored_with_the_tokenizer_that_was_released(tmp_path):
    world = TEXTS.world(tmp_path)
    assert world.run("tiny_release", TEXTS.register(world)).success
    world.write(f"data/scoring/{MONTH}.parquet", TEXTS.rows(7))
    word_tokenizer(world.artifact("1", "release_model") / "tokenizer.json", cut=7)
    assert "tokenizer.json has changed since" in world.run("tiny_scoring", MONTH).failure


def test_sentences_are_printed_as_they_are(tmp_path):
    (tmp_path / "release_model").mkdir()
    rungs = (RungReport("fp32", False, "is worse on tags=[used]"),)
    Ladder("auc", 600, [8], None, rungs).save(tmp_path / "release_model" / "ladder.json")
    print_ladder(tmp_path, console := Console(file=StringIO()))
    assert "fp32 lost: is worse on tags=[used]" in console.file.getvalue()


# What is wrong ends in a sentence.


def refusal(kind: Kind, root, holdout: pd.DataFrame | None = None, **gate) -> str:
    """Why a release with these data and settings ends: of a step that failed, or of a check."""
    world = kind.world(root)
    world.settings["gate"] |= gate
    if holdout is not None:
        world.write("data/holdout.parquet", holdout)
    outcome = world.run("tiny_release", kind.register(world))
    assert not outcome.success and world.serving is None and world.left_behind() == []
    checks = [str(check.description) for check in outcome.checks.values() if not check.passed]
    said = checks[0] if checks else outcome.failure
    assert "Traceback" not in said and "\n" not in said
    return said


class Twisted(nn.Module):
    def forward(self, miles, minutes):
        return torch.special.bessel_j0(miles) + minutes


class Unmasked(Texts):
    """What pads a row counts as a word of its text."""

    def forward(self, ids, mask):
        mean = self.embedding(ids).mean(1) + 0 * mask.sum(1, keepdim=True)
        return {"probability": torch.sigmoid(self.probability(mean)).squeeze(1), "embedding": mean}


def unexportable(path):
    return archive(path, Twisted(), (torch.ones(2), torch.ones(2)), ({0: ROWS}, {0: ROWS}))


@pytest.mark.parametrize(
    ("kind", "gate", "says"),
    [
        pytest.param(
            replace(REGRESSION, save=unexportable), {},
            ["its operator prims.bessel_j0.default, used at", f"{__file__}:", "replace that operator"],
            id="an operator that ONNX lacks",
        ),
        pytest.param(
            replace(SEQUENCES, save=lambda path: texts(path, Unmasked())), {},
            ["differs from the ONNX file by up to 0."],
            id="padding that means something",
        ),
        pytest.param(
            replace(REGRESSION, outputs=(Tensor("fare", "float32", (2,)),)), {},
            ["fare has the shape (2,)", "-1, the batch"],
            id="a fixed batch",
        ),
        pytest.param(
            replace(EXTERNAL, outputs=(Tensor("probability", "str", (-1,)),)), {},
            ["probability holds str values"],
            id="strings as answers",
        ),
        pytest.param(
            replace(EXTERNAL, save=lambda path: beside(path, everything=True)), {},
            ["ONNX Runtime can't load it", "log it again with its weights within the file"],
            id="external data that ONNX Runtime can't read",
        ),
        pytest.param(
            EXTERNAL, {"output": "chance"},
            ["gate.output is 'chance'; the model's outputs are probability."],
            id="an output that there is not",
        ),
        pytest.param(
            EXTERNAL, {"slices": ["carrier", "airline"]},
            ["it has no column airline to slice by"],
            id="a slice that there is not",
        ),
        pytest.param(
            many_classes(metric="log_loss"), {},
            ["inconclusive: fp32: ", " of 600 predictions are outside [0, 1]: they are no probabilities"],
            id="the log loss of logits",
        ),
        pytest.param(
            EXTERNAL, {"metric": "tests.assets.own:picky"},
            ["inconclusive: fp32: the error of tests.assets.own:picky is not known"],
            id="an own metric that fails on resampled rows",
        ),
    ],
)  # fmt: skip
def test_a_model_or_a_setting_that_does_not_fit_is_named(tmp_path, kind, gate, says):
    said = refusal(kind, tmp_path, **gate)
    assert all(part in said for part in says), said


@pytest.mark.parametrize(
    ("kind", "damage", "says"),
    [
        pytest.param(
            replace(EXTERNAL, settings={"gate": {"metric": "auc"}}), lambda labels: labels * 0 + 1,
            "inconclusive: fp32: all 600 labels are 1",
            id="of one class",
        ),
        pytest.param(
            REGRESSION, lambda labels: labels.where(labels.index != 3),
            "holdout: fare must never be empty or NaN, but 1 of 600 rows breaks this",
            id="NaN",
        ),
        pytest.param(
            EMBEDDING, lambda labels: [np.full(5, np.nan), *labels[1:]],
            "inconclusive: fp32: 1 of 600 labels are NaN or infinite",
            id="NaN in a vector",
        ),
        pytest.param(
            EMBEDDING, lambda labels: [np.ones(4), *labels[1:]],
            "The holdout data breaks the contract: y holds lists of several lengths",
            id="vectors of several lengths",
        ),
        pytest.param(
            replace(EXTERNAL, settings={"gate": {"metric": "accuracy"}}),
            lambda labels: labels.map(["no", "yes"].__getitem__),
            "the labels are <U3 values, not numbers",
            id="names",
        ),
    ],
)  # fmt: skip
def test_labels_that_do_not_fit_are_named(tmp_path, kind: Kind, damage: Callable, says: str):
    holdout = kind.rows(2)
    label = "fare" if kind is REGRESSION else "y"
    assert says in refusal(kind, tmp_path, holdout.assign(**{label: damage(holdout[label])}))


def test_a_metric_that_cannot_be_imported_is_named_before_anything_runs(tmp_path):
    world = EXTERNAL.world(tmp_path)
    world.settings["gate"]["metric"] = "tests.assets.own:nothing"
    with pytest.raises(SettingsInvalid, match=r"metric is 'tests\.assets\.own:nothing'; it can't be"):
        _ = world.definitions


def test_a_key_that_is_named_like_an_output_is_refused(tmp_path):
    kind = replace(EXTERNAL, rows=lambda seed: EXTERNAL.rows(seed).rename(columns={"id": "probability"}))
    said = refusal(replace(kind, settings={"data": {"key": "probability"}}), tmp_path)
    assert said.endswith(
        "data.key is 'probability'; an output of the model has that name: rename the column."
    )


def test_a_category_within_a_list_that_the_model_does_not_know_is_named(tmp_path):
    world = MIXED.world(tmp_path)
    assert world.run("tiny_release", MIXED.register(world)).success
    month = MIXED.rows(7)
    month["tags"] = [["lost"], *month["tags"][1:]]
    world.write(f"data/scoring/{MONTH}.parquet", month)
    failure = world.run("tiny_scoring", MONTH).failure
    assert "the column tags 'lost' is not one of its categories; correct tags, or the contract." in failure

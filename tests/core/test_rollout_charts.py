"""The pictures of a rollout: small PNGs, whatever was known."""

from dataclasses import replace
from io import BytesIO

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from pipelines.core.picture import INK, RED
from pipelines.core.rollout import timeline
from pipelines.core.rollout.charts import period, rollout_chart, strata_chart
from pipelines.core.rollout.guardrails import ErrorRate, Metric
from pipelines.core.rollout.strategies import ab, canary
from pipelines.core.rollout.stratified import stratified
from pipelines.core.rollout.timeline import Timeline
from tests.benchmarks.rollout.worlds import BAD, CONVERTED, GOOD
from tests.core.rollouts import analysed, run, write

PACE = {"min_requests": 500, "min_seconds": 3, "max_seconds": 60}


@pytest.fixture(scope="module")
def taken_back(tmp_path_factory) -> Timeline:
    folder = tmp_path_factory.mktemp("rollout")
    write(folder, *run(canary((0.5,), **PACE), BAD["nothing but errors"]))
    return timeline.load(folder)


def covers(png: bytes, color: str) -> float:
    pixels = np.asarray(Image.open(BytesIO(png)).convert("RGB"), dtype=float)
    return float((np.abs(pixels - 255 * np.array(to_rgb(color))).max(axis=-1) < 12).mean())


def height(png: bytes) -> int:
    return Image.open(BytesIO(png)).height


def test_a_panel_a_guardrail_and_no_figure_stays_behind(taken_back: Timeline):
    whole, bare = rollout_chart(taken_back), rollout_chart(replace(taken_back, looks=()))
    assert height(whole) > 4 * height(bare) and len(whole) < 80_000
    assert covers(whole, RED) > 1e-4 and covers(whole, INK) > 1e-3 and covers(bare, INK) > 1e-3
    assert plt.get_fignums() == []


def test_bounds_without_end_metrics_and_findings_without_numbers_are_drawn(tmp_path):
    plan = ab(0.5, (ErrorRate(0.0), Metric(CONVERTED, "higher", 0.0, (0, 1))), min_seconds=3, max_seconds=9)
    write(tmp_path, *run(plan, GOOD))
    found = timeline.load(tmp_path)
    assert height(rollout_chart(found)) > 300
    unknown = replace(
        found.looks[-1].findings[0], numbers={"low": None, "high": None, "allowed": 0, "alpha": 1}
    )
    silent = replace(found.looks[-1].findings[1], numbers={})
    assert rollout_chart(replace(found, looks=(replace(found.looks[-1], findings=(unknown, silent)),)))


def test_strata_are_drawn_also_where_nothing_is_known():
    found = analysed(4000)
    nothing = stratified(pd.DataFrame({"user": [1], "arm": ["stable"], "value": [2.0]}), "spend")
    assert height(strata_chart(found)) > height(strata_chart(nothing)) > 100
    assert covers(strata_chart(found), INK) > 5 * covers(strata_chart(nothing), INK)


@pytest.mark.parametrize(
    ("seconds", "unit"),
    [(0, "seconds"), (179, "seconds"), (180, "minutes"), (4 * 3600, "hours"), (7 * 86_400, "days")],
)
def test_time_is_told_in_a_unit_that_suits_it(seconds: float, unit: str):
    assert period(seconds)[1] == unit

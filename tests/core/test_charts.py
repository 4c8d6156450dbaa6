"""The picture of the ladder: a small PNG that shows the decision, whatever was or was not measured."""

from dataclasses import replace
from io import BytesIO

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from pipelines.core.charts import BAND, COLORS, decision, ladder_chart, metric_name
from pipelines.core.ladder import Ladder, RungReport
from pipelines.core.verdict import Outcome

SIZES = (1, 8, 64)


def rung(name: str, outcome: Outcome, times: float, chosen: bool = False) -> RungReport:
    speedup = {str(size): {"median": times, "low": times * 0.9, "high": times * 1.1} for size in SIZES}
    return RungReport(
        name, True, "passed", outcome, chosen, value=0.74, low=0.73, high=0.75,
        overall_speedup=times, speedup=speedup,
    )  # fmt: skip


def ladder(*rungs: RungReport, chosen: str | None = None, metric: str = "auc") -> Ladder:
    return Ladder(metric, 20_000, list(SIZES), chosen, rungs)


FP32, CHOSEN = rung("fp32", "pass", 1), rung("int8_static", "pass", 2.1, chosen=True)
REFUSED, THIN = rung("int8_dynamic", "fail", 1.8), rung("fp16", "inconclusive", 3)
UNBUILT = RungReport("fp16", False, "Fail: [ONNXRuntimeError] : 1 : FAIL : " + "Type Error " * 30)
UNJUDGED = RungReport("fp32", True, "40 holdout rows are fewer than 500", "inconclusive")
LADDERS = {
    "one refused": ladder(FP32, REFUSED, CHOSEN, chosen="int8_static"),
    "all kinds": ladder(FP32, REFUSED, THIN, CHOSEN, UNBUILT, chosen="int8_static", metric="log_loss"),
    "fp32 alone": ladder(replace(FP32, chosen=True), chosen="fp32", metric="my.metrics:profit_at_5"),
    "none passed": ladder(replace(FP32, outcome="fail"), REFUSED, UNBUILT),
    "none judged": ladder(UNJUDGED, replace(UNJUDGED, rung="int8_static"), metric="rmse"),
}


def covers(png: bytes, color: str) -> float:
    """The share of the picture that has the color, more or less."""
    pixels = np.asarray(Image.open(BytesIO(png)).convert("RGB"), dtype=float)
    return float((np.abs(pixels - 255 * np.array(to_rgb(color))).max(axis=-1) < 12).mean())


@pytest.mark.parametrize("name", LADDERS)
def test_it_is_a_small_png_and_no_figure_stays_behind(name: str):
    png = ladder_chart(LADDERS[name])
    picture = Image.open(BytesIO(png))
    assert picture.format == "PNG" and 1000 < picture.width < 1170 and len(png) < 60_000
    assert plt.get_fignums() == []


@pytest.mark.parametrize("name", LADDERS)
def test_the_chosen_rung_stands_out_and_refused_ones_are_red(name: str):
    png, rungs = ladder_chart(LADDERS[name]), LADDERS[name].rungs
    standings = {"chosen" if found.chosen else found.outcome for found in rungs}
    for standing, color in COLORS.items():
        assert (covers(png, color) > 1e-4) == (standing in standings), standing
    assert (covers(png, BAND) > 0.05) == ("chosen" in standings)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("one refused", "int8_static is chosen: 2.10 times as fast as fp32, AUC 0.7400"),
        ("fp32 alone", "fp32 is chosen: no other rung that passed is faster, profit at 5 0.7400"),
        ("none passed", "No rung may be served: 3 refused"),
        ("none judged", "No rung may be served: 2 inconclusive"),
    ],
)
def test_the_title_is_the_decision(name: str, says: str):
    assert decision(LADDERS[name]) == says


def test_a_rung_more_makes_the_picture_higher_and_not_wider():
    few, more = (Image.open(BytesIO(ladder_chart(LADDERS[name]))) for name in ("one refused", "all kinds"))
    assert few.width == more.width and few.height < more.height


def test_metrics_have_the_names_that_people_write():
    assert [metric_name(name) for name in ("auc", "accuracy", "log_loss")] == ["AUC", "accuracy", "log loss"]

"""The pictures of a load test: small PNGs that show what was measured, whatever was."""

from dataclasses import replace
from io import BytesIO
from math import inf

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from pipelines.core.capacity.charts import COLORS, percentile_chart, throughput_chart
from pipelines.core.capacity.inside import PARTS, batch_shares, inside_chart
from pipelines.core.capacity.proof import Load, Step
from pipelines.core.capacity.timelines import memory_chart, p99_over_time, time_chart
from pipelines.core.latency import Offer, Samples, histogram, summarise
from pipelines.core.picture import RED, log_axis
from tests.core.loads import make_load

NOTHING = Samples(*(np.array([]) for _ in range(4)))


@pytest.fixture(scope="module")
def measured() -> tuple[Load, pd.DataFrame]:
    return make_load()


def charts(load: Load, samples: pd.DataFrame) -> dict[str, bytes]:
    return {
        "throughput": throughput_chart(load),
        "percentiles": percentile_chart(load),
        "inside": inside_chart(load),
        "times": time_chart(load, samples),
        "memory": memory_chart(load),
    }


def with_steps(load: Load, *steps: Step) -> Load:
    return replace(load, candidate=replace(load.candidate, steps=steps), production=None)


def covers(png: bytes, color: str) -> float:
    """The share of the picture that has the color, more or less."""
    pixels = np.asarray(Image.open(BytesIO(png)).convert("RGB"), dtype=float)
    return float((np.abs(pixels - 255 * np.array(to_rgb(color))).max(axis=-1) < 12).mean())


def test_all_are_small_pngs_of_one_width_and_no_figure_stays_behind(measured: tuple[Load, pd.DataFrame]):
    for name, png in charts(*measured).items():
        picture = Image.open(BytesIO(png))
        assert picture.format == "PNG" and picture.width == 1155 and len(png) < 80_000, name
    assert plt.get_fignums() == []


def test_both_versions_are_on_the_same_axes(measured: tuple[Load, pd.DataFrame]):
    load, _ = measured
    alone = replace(load, production=None)
    grey = COLORS["production"]
    assert covers(throughput_chart(load), grey) > 3 * covers(throughput_chart(alone), grey)
    sizes = [Image.open(BytesIO(throughput_chart(each))).size for each in (load, alone)]
    assert sizes[0] == sizes[1]


def test_refused_requests_are_red(measured: tuple[Load, pd.DataFrame]):
    load, samples = measured
    none_refused = samples[samples["status"] == 200]
    assert covers(time_chart(load, samples), RED) > 3 * covers(time_chart(load, none_refused), RED)


def test_each_part_of_a_request_has_its_color(measured: tuple[Load, pd.DataFrame]):
    png = inside_chart(measured[0])
    assert all(covers(png, color) > 2e-4 for color in PARTS.values())


def test_more_loads_make_the_picture_higher(measured: tuple[Load, pd.DataFrame]):
    load, _ = measured
    few = with_steps(load, *load.candidate.of("peak"))
    heights = [Image.open(BytesIO(inside_chart(each))).height for each in (few, load)]
    assert heights[0] < heights[1]


def test_a_service_that_was_gone_from_the_start_is_drawn_too(measured: tuple[Load, pd.DataFrame]):
    load, samples = measured
    offer, some = Offer("½x peak", 100, 2), load.candidate.steps[0]
    gone = replace(some, stage=summarise(offer, 200, NOTHING), histogram=histogram(NOTHING).decode())
    for steps in ((), (gone,), (some, gone)):
        assert all(charts(with_steps(load, *steps), samples[:0]).values())


def test_an_interval_without_an_upper_end_is_drawn(measured: tuple[Load, pd.DataFrame]):
    load, _ = measured
    some = load.candidate.steps[0]
    open_ended = replace(some, stage=replace(some.stage, p99_high_ms=inf))
    assert throughput_chart(with_steps(load, open_ended))


@pytest.mark.parametrize(
    ("cumulative", "shares"),
    [
        (
            {"1.0": 10, "2.0": 30, "4.0": 35, "8.0": 40, "+Inf": 40},
            {"1": 0.25, "2": 0.5, "3–4": 0.125, "5–8": 0.125, "> 8": 0},
        ),
        ({"+Inf": 4, "1024.0": 3, "2048.0": 3}, {"1–1,024": 0.75, "1,025–2,048": 0, "> 2,048": 0.25}),
        ({"1.0": 0, "+Inf": 0}, {"1": 0, "> 1": 0}),
        ({}, {}),
    ],
    ids=["powers of two", "in any order", "no batches", "nothing known"],
)
def test_cumulative_counts_become_shares(cumulative: dict[str, int], shares: dict[str, float]):
    assert batch_shares(cumulative) == shares


def test_the_p99_of_each_slice_of_time_is_of_its_own_requests():
    at, latency = np.linspace(0, 40, 4000), np.ones(4000)
    latency[2000:2100] = 9
    middles, p99 = p99_over_time(at, latency)
    assert middles == pytest.approx(np.arange(40) + 0.5) and p99 == [
        9.0 if n == 20 else 1.0 for n in range(40)
    ]
    assert p99_over_time(np.array([]), np.array([])) == ([], [])


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0.3, 40], "0.2 0.5 1 2 5 10 20 50"),
        ([100, 0, 1500], "100 200 500 1,000 2,000"),
        ([3], "2 5"),
        ([5], "5 10"),
        ([0.01, 30_000], "0.01 0.1 1 10 100 1,000 10,000"),
        ([], "1 2"),
    ],
)
def test_a_logarithmic_axis_has_plain_round_numbers(values: list[float], ticks: str):
    axes = Figure().subplots()
    log_axis(axes, "y", values)
    assert [label.get_text() for label in axes.get_yticklabels()] == ticks.split()
    low, high = axes.get_ylim()
    assert all(low <= value <= high for value in values if value)

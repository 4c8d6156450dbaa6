"""The service beside its peers. Figures go to results.json beside this file; what is asserted are ratios that
were measured in one run. SEATRIAL_BENCH_QUICK=1 takes one short round and writes nothing."""

import os

import pytest

from tests.benchmarks.harness.rounds import Effort
from tests.benchmarks.serving import overload, texts, tiny
from tests.benchmarks.serving.binary import LIMIT as BINARY_LIMIT
from tests.benchmarks.serving.scenarios import run

QUICK = bool(os.environ.get("SEATRIAL_BENCH_QUICK"))
MIN_SHARE_OF_IDEAL = 0.97


def measured(scenario: str) -> dict:
    return run(scenario, Effort(1, 2) if QUICK else Effort(), kept=not QUICK)


@pytest.fixture(scope="module")
def on_tiny():
    return measured("tiny")


@pytest.fixture(scope="module")
def on_binary():
    return measured("binary")


@pytest.fixture(scope="module")
def on_overload():
    ours = measured("overload")["peers"]["ours"]
    assert "failed" not in ours, ours
    return ours


@pytest.fixture(scope="module")
def on_texts():
    return measured("texts")


@pytest.fixture(scope="module")
def on_the_batcher():
    return measured("batcher")


@pytest.mark.parametrize("name", tiny.LIMITS)
def test_a_request_costs_little(on_tiny, name):
    ratio = on_tiny["ours_to"][name]
    assert ratio and ratio["median"] <= tiny.LIMITS[name], on_tiny["peers"]


def test_every_peer_was_measured(on_tiny):
    assert {name: told["failed"] for name, told in on_tiny["peers"].items() if "failed" in told} == {}


@pytest.mark.parametrize("way", ["predict", "v2_json"])
def test_bytes_cost_a_fraction_of_json(on_binary, way):
    ratio = on_binary["binary_to"][way]
    assert ratio and ratio["median"] <= BINARY_LIMIT, on_binary["ways"]


@pytest.mark.parametrize("times", overload.LIMITS)
def test_overload_leaves_the_goodput(on_overload, times):
    assert on_overload[f"goodput_{times}x"]["median"] >= overload.LIMITS[times]


@pytest.mark.parametrize("times", overload.LIMITS)
def test_a_refusal_comes_at_once(on_overload, times):
    assert on_overload[f"refused_{times}x"]["median"] > 0
    assert on_overload[f"refusal_p99_ms_{times}x"]["median"] <= overload.REFUSAL_P99_MS


def test_texts_of_many_lengths(on_texts):
    ratios = on_texts["ours_to"].values()
    assert all(ratio and ratio["median"] >= texts.LIMIT for ratio in ratios), on_texts["peers"]


def test_the_batcher_is_near_the_ideal(on_the_batcher):
    assert on_the_batcher["ours"]["share_of_ideal"] >= MIN_SHARE_OF_IDEAL


@pytest.mark.parametrize("load", ["5%", "30%", "70%"])
def test_the_batcher_waits_no_longer_than_bentomls(on_the_batcher, load):
    assert on_the_batcher["ours_to_cork"][f"p99_ms_at_{load}"]["median"] <= 1

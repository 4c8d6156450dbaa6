"""The service beside its peers. Figures go to results.json beside this file; what is asserted are ratios that
were measured in one run. SEATRIAL_BENCH_QUICK=1 takes one short round and writes nothing."""

import os
from importlib import import_module

import pytest

from tests.benchmarks.harness.machine import facts
from tests.benchmarks.harness.report import save
from tests.benchmarks.harness.rounds import Effort
from tests.benchmarks.serving import RESULTS, overload, texts, tiny
from tests.benchmarks.serving.binary import LIMIT as BINARY_LIMIT

QUICK = bool(os.environ.get("SEATRIAL_BENCH_QUICK"))


def measured(scenario: str) -> dict:
    machine = facts()
    figures = import_module(f"tests.benchmarks.serving.{scenario}").measure(
        Effort(1, 2) if QUICK else Effort()
    )
    if not QUICK:
        save(RESULTS, scenario, machine, figures)
    return figures


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

"""What a load test means for other loads: how much room is left, how many replicas, what it costs."""

from dataclasses import dataclass
from math import ceil

from pipelines.core.capacity.proof import Load, Trial

PLANNED_SHARE = 0.5
"""What a replica is planned for, of its knee. A release is proven at twice the expected peak, so that a peak
may double; a replica at half of its knee keeps that promise whatever the rate it is one of many for."""
MULTIPLES = (1, 2, 5, 10)
"""Of the expected peak, the rates to plan for."""
ROUNDING = 1e-9


@dataclass(frozen=True)
class Scale:
    """What a rate takes. Prices are in the currency of the price of a core, None without one.

    replicas      so that each gets at most `PLANNED_SHARE` of its knee
    with_spare    one more, so that this still holds while one is down
    knee_share    what each of `replicas` gets, of its knee
    per_hour      the price of all cores of `replicas`, busy or not
    """

    rate_rps: float
    replicas: int
    with_spare: int
    cores: int
    knee_share: float
    per_hour: float | None
    per_million: float | None


def headroom(trial: Trial, load: Load) -> float:
    """The knee over twice the expected peak: below 1 the promise breaks before. At least that, where the knee
    was not reached."""
    return trial.knee_rps / (2 * load.expected_peak_rps)


def replicas_for(rate_rps: float, knee_rps: float, share: float = PLANNED_SHARE) -> int | None:
    """How many replicas answer a rate evenly shared, each at or below `share` of its knee; at least 1. None
    where the promise held at no rate: then no number of them would do."""
    if knee_rps <= 0:
        return None
    return max(1, ceil(rate_rps / (share * knee_rps) - ROUNDING))


def cost_per_million(price_per_core_hour: float | None, cores: int, rate_rps: float) -> float | None:
    """The price of 1,000,000 predictions, each a request of one row, at a steady rate on cores that are paid
    busy or not. None without a price, or where nothing is answered."""
    if price_per_core_hour is None or rate_rps <= 0:
        return None
    return price_per_core_hour * cores / (rate_rps * 3600) * 1e6


def scales(trial: Trial, load: Load) -> list[Scale]:
    """What each of `MULTIPLES` takes; empty where the promise held at no rate."""
    rates = [multiple * load.expected_peak_rps for multiple in MULTIPLES]
    counted = [(rate, replicas_for(rate, trial.knee_rps)) for rate in rates]
    return [_scale(trial, load.price_per_core_hour, rate, count) for rate, count in counted if count]


def _scale(trial: Trial, price: float | None, rate_rps: float, replicas: int) -> Scale:
    cores = replicas * trial.cores
    return Scale(
        rate_rps=rate_rps,
        replicas=replicas,
        with_spare=replicas + 1,
        cores=cores,
        knee_share=rate_rps / replicas / trial.knee_rps,
        per_hour=None if price is None else price * cores,
        per_million=cost_per_million(price, cores, rate_rps),
    )


def figures(trial: Trial, load: Load) -> dict[str, float | None]:
    """What versions are compared by: at twice the expected peak, which is offered to each, and at the knee;
    None where it was not measured, or there is no price."""
    twice = next(reversed(trial.of("peak")), None)
    planned_rps = PLANNED_SHARE * trial.knee_rps
    return {
        "knee, requests/s": trial.knee_rps,
        "– for each core of the plan": trial.knee_rps / trial.cores,
        "p50 at twice the peak, ms": twice and twice.stage.p50_ms,
        "p99 at twice the peak, ms": twice and twice.stage.p99_ms,
        "CPU of a request at twice the peak, µs": twice and twice.service.cpu_us,
        "memory after twice the peak, MiB": twice and twice.service.memory_mib,
        "price of a million at half the knee": cost_per_million(
            load.price_per_core_hour, trial.cores, planned_rps
        ),
    }

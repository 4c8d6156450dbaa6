"""Load that was never sent: every request is answered after the same time."""

from collections.abc import Sequence

import numpy as np

from pipelines.core.latency import Offer, Samples, summarise
from pipelines.gateways.load.progress import Meter
from pipelines.gateways.payloads import Payloads
from pipelines.gateways.traffic import LoadResult, Progress, Traffic


class FakeTraffic(Traffic):
    """Answers after `latency_ms`, of which `lag_ms` were the generator's; the first `failing` requests of
    each stage get a 429. Beyond `most_rps` it falls behind, as every generator does somewhere. `runs` lists
    the (url, offers) that were asked for, `bodies` are the last run's."""

    def __init__(
        self, latency_ms: float = 2.0, lag_ms: float = 0.0, failing: int = 0, most_rps: float = 800.0
    ) -> None:
        self.latency_ms, self.lag_ms, self.failing, self.most_rps = latency_ms, lag_ms, failing, most_rps
        self.runs: list[tuple[str, list[Offer]]] = []
        self.bodies: Sequence[bytes] = []

    def run(
        self,
        url: str,
        payloads: Payloads,
        offers: Sequence[Offer],
        seed: int,
        on_progress: Progress | None = None,
    ) -> LoadResult:
        self.runs.append((url, list(offers)))
        self.bodies = payloads.bodies
        result = LoadResult([], [])
        for number, offer in enumerate(offers):
            samples = self._samples(offer, seed + number)
            stage = summarise(offer, len(samples.status), samples)
            result.stages.append(stage)
            result.samples.append(samples)
            Meter(offer.name, offer.seconds, on_progress).end(stage, offer.seconds)
        return result

    def _samples(self, offer: Offer, seed: int) -> Samples:
        times, lag_ms = offer.times(seed), self.lag_ms if offer.mean_rps <= self.most_rps else 1000.0
        status = np.where(np.arange(len(times)) < self.failing, 429, 200)
        latency_ms = np.full(len(times), self.latency_ms + lag_ms - self.lag_ms)
        return Samples(times, times + lag_ms / 1000, latency_ms, status)

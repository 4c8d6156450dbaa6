"""Load that was never sent: every request is answered after the same time."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from pipelines.core.latency import Samples, arrivals, summarise
from pipelines.gateways.traffic import LoadResult, Progress, Traffic


class FakeTraffic(Traffic):
    """Answers after `latency_ms`, of which `lag_ms` were the generator's; the first `failing` requests of
    each stage get a 429. `runs` lists the (url, stages) that were asked for, `bodies` are the last run's."""

    def __init__(self, latency_ms: float = 2.0, lag_ms: float = 0.0, failing: int = 0) -> None:
        self.latency_ms, self.lag_ms, self.failing = latency_ms, lag_ms, failing
        self.runs: list[tuple[str, list[tuple[str, float, float]]]] = []
        self.bodies: Sequence[bytes] = []

    def run(
        self,
        url: str,
        bodies: Sequence[bytes],
        stages: Sequence[tuple[str, float, float]],
        seed: int,
        on_progress: Progress | None = None,
    ) -> LoadResult:
        self.runs.append((url, list(stages)))
        self.bodies = bodies
        tables, summaries = [], []
        for name, rate_rps, seconds in stages:
            samples = self._samples(arrivals(rate_rps, seconds, seed))
            tables.append(pa.table({"stage": [name] * len(samples.status), **vars(samples)}))
            summaries.append(summarise(name, rate_rps, seconds, len(samples.status), samples))
        return LoadResult(pa.concat_tables(tables), summaries)

    def _samples(self, times: np.ndarray) -> Samples:
        status = np.where(np.arange(len(times)) < self.failing, 429, 200)
        return Samples(times, times + self.lag_ms / 1000, np.full(len(times), self.latency_ms), status)

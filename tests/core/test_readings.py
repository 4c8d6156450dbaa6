"""What a service did between two looks at it: against the service's own metrics."""

import pytest

from bentos.watching.metrics import Metrics
from pipelines.core.capacity.readings import Reading, Usage, between


def test_what_happened_in_between_is_counted():
    metrics = Metrics()
    metrics.stage("parse", 0.5)
    metrics.batch(3, 3, 0.25, 0.5)
    before = Reading(Usage(10.0, 50 * 2**20, 30), metrics.render().decode())
    for _ in range(2):
        metrics.stage("parse", 0.001)
        metrics.waited(0.002)
        metrics.batch(8, 2, 0.004, 0.006)
    after = Reading(Usage(10.5, 60 * 2**20, 32), metrics.render().decode())
    found = between(before, after, requests=1000)
    assert (found.cpu_us, found.memory_mib, found.descriptors) == (500, 60, 32)
    stages = {"parse": 1.0, "queue": 2.0, "assemble": 4.0, "model": 6.0, "respond": 0.0}
    assert found.stage_ms == pytest.approx(stages)
    assert [found.batch_rows[end] for end in ("4.0", "8.0", "+Inf")] == [0, 2, 2]


def test_a_service_that_was_never_asked():
    reading = Reading(Usage(1.0, 0, 0), Metrics().render().decode())
    found = between(reading, reading, requests=0)
    assert found.cpu_us == 0 and set(found.stage_ms.values()) == {0.0}

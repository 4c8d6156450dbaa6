"""What an image may hold, and what its container may use."""

from dataclasses import replace

import pytest

from bentos.manifest import Plan
from pipelines.core.image import Facts, judge_image, resources_of

REFERENCE = "localhost/seatrial/tiny:v3-0a1b2c@sha256:" + "d" * 64
FACTS = Facts(
    "sha256:" + "d" * 64, 600 * 2**20, "bentoml", 1034, ("serve",), {"bentoml": "1.4.39", "numpy": "2.4.6"},
    {"bash": "5.2"}, "a" * 64, "b" * 64, ("usr/bin/su",),
)  # fmt: skip
BILL = {"components": [{"name": name} for name in ("BentoML", "numpy", "bash")]}


def judged(facts: Facts = FACTS, bill: dict = BILL):
    return judge_image(facts, REFERENCE, "a" * 64, bill, 1024)


def test_a_sound_image_passes():
    verdict = judged()
    assert verdict.passed
    assert verdict.subject == REFERENCE
    assert verdict.why == (
        "it runs as bentoml (1034), has 600 MiB and holds the model that was judged, "
        "with 2 Python and 1 Debian packages"
    )


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"user": "", "uid": 0}, "it runs as root, so set a USER"),
        ({"size_bytes": 2**31}, "it has 2,048 MiB, more than serving.max_image_megabytes, 1,024"),
        (
            {"python_packages": {"torch": "2", "pandas": "3"}},
            "it holds pandas, torch, which nothing that serves needs; "
            "its bill of materials lacks pandas, torch",
        ),
        ({"model_sha256": "c" * 64}, "the model inside is not the one that was judged"),
        ({"model_sha256": ""}, "the model inside is not the one that was judged"),
        ({"system_packages": {"dash": "1"}}, "its bill of materials lacks dash"),
    ],
)
def test_what_is_wrong_is_said(changed, why):
    verdict = judged(replace(FACTS, **changed))
    assert (verdict.outcome, verdict.why) == ("fail", why)


def test_an_image_needs_a_bill_of_materials():
    assert judged(bill={}).why == "it has no bill of materials"


def test_resources_follow_from_the_plan_and_from_what_was_measured():
    small = resources_of(Plan(), 100)
    assert (small.cpus, small.memory_mib) == (2, 512)
    large = resources_of(Plan(workers=2, threads=3, replicas=2), 700)
    assert (large.cpus, large.memory_mib) == (14, 2048)
    assert large.pids > small.pids
    assert resources_of(Plan(), 700) == resources_of(Plan(), 900), "a second measurement changes no image"
    assert resources_of(Plan(), 700, 300.5).memory_mib == 301

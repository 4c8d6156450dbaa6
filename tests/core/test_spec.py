"""Settings: a wrong one ends in a sentence that says what to write instead."""

import pytest
from pydantic import ValidationError

from pipelines.core.spec import ModelSpec

DATA = {"reference": "r", "calibration": "c", "holdout": "h", "label": "y", "key": "id"}
GOOD = {"name": "churn", "registry_uri": "models:/churn@candidate", "data": DATA}


def test_defaults_are_enough():
    spec = ModelSpec(**GOOD)
    assert (spec.registered_name, spec.alias, spec.gate.rungs[0]) == ("churn", "candidate", "fp32")


def metric(**settings) -> dict:
    given = {"name": "revenue", "better": "higher", "margin": 0.1, **settings}
    return {"rollout": {"strategy": ["full"], "metrics": [given]}}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"gate": {"max_drop": 1.0}}, "is a fraction such as 0.01, not 1 (percent)"),
        ({"monitoring": {"max_drop": 5}}, "monitoring.max_drop is a fraction such as 0.01, not 5 (percent)"),
        ({"gate": {"metric": "rmse"}, "monitoring": {"max_drop": -1}}, "is a fraction such as 0.01, not -1"),
        ({"gate": {"rungs": ["int8_static"]}}, "must contain fp32"),
        ({"gate": {"rungs": ["fp32", "int4"]}}, "knows fp32, fp16, int8_dynamic"),
        ({"gate": {"batch_sizes": [0]}}, "must be greater than 0, not 0"),
        ({"serving": {"path": "churn"}}, "must start with / and hold no spaces, e.g. /churn"),
        ({"serving": {"p99_ms": -1}}, "must be greater than 0, not -1"),
        ({"serving": {"max_queue_rows": 0}}, "must be greater than 0, not 0"),
        ({"serving": {"lengths": [32, 16]}}, "must ascend, e.g. [16, 32, 64], not [32, 16]"),
        (
            {"serving": {"padded_batch_sizes": [1, 8]}},
            "must end with max_batch_size, which is not set, not with 8",
        ),
        ({"serving": {"fallback": "default"}}, "needs default_answer, e.g. {probability: 0.5}"),
        ({"serving": {"default_answer": {"p": 1}}}, "default_answer is for fallback: default"),
        ({"serving": {"fallback": "cached"}}, "so set cache_seconds, e.g. 60"),
        ({"serving": {"cache_seconds": -1}}, "must be at least 0, which is no cache, not -1"),
        ({"serving": {"capture_share": 5}}, "is a share from 0 to 1, e.g. 0.1, not 5"),
        ({"serving": {"drain_seconds": 60}}, "must be from 0 to 10, not 60"),
        ({"registry_uri": "models:/churn/3"}, "must be models:/NAME@ALIAS, e.g. models:/churn@candidate"),
        ({"scoring": {"input": "x.parquet", "start": "2026-01"}}, "must contain {month}"),
        ({"scoring": {"input": "{month}.parquet", "start": "January"}}, "must be a month such as 2013-04"),
        ({"ranges": {"age": [90, 0]}}, "ranges.age must be [minimum, maximum]"),
        ({"name": "My Model"}, "must be lower-case letters, digits and _"),
        ({"serving": {"p99": 3}}, "Extra inputs are not permitted"),
        ({"monitoring": {"columns": {"age": {"method": "psy", "threshold": 1}}}}, "'psi'"),
        (metric(), "a metric is told by SQL or by a function: write one"),
        (metric(sql="SELECT 1", files={"predictions": "x.csv"}), "that is not predictions"),
        (metric(sql="SELECT 1", every_seconds=0), "revenue.every_seconds is 0.0; write seconds above 0"),
        (metric(sql="SELECT 1", margin=-1), "margin is -1.0; write 0 or more, in the metric's unit"),
        (metric(sql="SELECT 1", between=[0]), "is the lower and the upper limit, e.g. [0, 1], not [0.0]"),
        (metric(sql="SELECT 1", between=[1, 0]), "write the lower limit first"),
    ],
)
def test_a_wrong_setting_says_what_to_write(change, says):
    with pytest.raises(ValidationError) as refused:
        ModelSpec(**{**GOOD, **change})
    assert says in str(refused.value)


def test_a_drop_is_in_the_unit_of_its_metric():
    spec = ModelSpec(**GOOD, gate={"metric": "rmse", "max_drop": 2}, monitoring={"max_drop": 5})  # type: ignore
    assert (spec.gate.max_drop, spec.monitoring.max_drop) == (2, 5)


def test_the_digest_changes_with_any_setting():
    spec, other = ModelSpec(**GOOD), ModelSpec(**{**GOOD, "gate": {"max_drop": 0.01}})
    assert spec.digest() != other.digest()
    assert spec.serving.digest() == other.serving.digest()

"""Verdicts: three outcomes, of which one is a pass, kept beside what they judge."""

import pytest

from pipelines.core.verdict import Verdict, judge


def test_no_failure_is_a_pass_with_praise():
    verdict = judge("parity", "digest", [], "differs by at most 0", rows=3)
    assert verdict.passed and verdict.why == "differs by at most 0" and verdict.numbers == {"rows": 3}


def test_failures_are_all_told():
    verdict = judge("parity", "digest", ["too far", "too slow"], "fine")
    assert verdict.outcome == "fail" and verdict.why == "too far; too slow"


def test_too_little_evidence_is_no_pass():
    assert not Verdict("parity", "inconclusive", "digest", ("12 rows",)).passed


def test_what_was_saved_is_loaded(tmp_path):
    saved = judge("parity", "digest", ["too far"], "fine", rows=3, why=None).save(tmp_path)
    assert Verdict.load(tmp_path, "parity") == saved
    with pytest.raises(FileNotFoundError):
        Verdict.load(tmp_path, "within_slo")

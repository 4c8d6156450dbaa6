"""Which versions the sensor releases, as a table."""

import pytest

from pipelines.core.candidates import Seen, to_release


def _seen(*versions: str, aliased: str | None) -> Seen:
    return Seen(frozenset(versions), aliased)


@pytest.mark.parametrize(
    ("before", "now", "started", "expected"),
    [
        (None, _seen("1", "2", "3", aliased="2"), "", ["2"]),
        (None, _seen("1", aliased=None), "", []),
        (_seen("1", aliased="1"), _seen("1", aliased="1"), "", []),
        (_seen("1", aliased="1"), _seen("1", "2", aliased="1"), "", ["2"]),
        (_seen("1", "2", aliased="1"), _seen("1", "2", aliased="2"), "", ["2"]),
        (_seen("1", aliased="1"), _seen("1", "2", aliased="2"), "", ["2"]),
        (_seen("1", aliased="1"), _seen("1", "2", aliased="2"), "2", []),
        (_seen("1", "2", aliased="2"), _seen("1", "2", aliased="1"), "12", []),
        (_seen("8", aliased="8"), _seen("8", "9", "10", aliased="10"), "", ["9", "10"]),
    ],
    ids=["first look", "no alias", "nothing new", "new version", "alias moved", "both at once", "by hand",
         "alias moved back", "oldest first"],
)  # fmt: skip
def test_to_release(before, now, started, expected):
    assert to_release(before, now, frozenset(started)) == expected


def test_what_was_seen_survives_the_cursor():
    seen = _seen("1", "2", aliased="2")
    assert Seen.load(seen.dump()) == seen
    assert Seen.load(None) is None

from dataclasses import replace

import pytest

from pipelines.core.entries import NOTHING, Entry, digest_of, entry_of, first_fault, sealed, text_of
from pipelines.core.release import Release

RELEASE = Release("churn", "1", "r1", "fp32", "churn:1", "/", "artifacts/churn/1", {"parity": {"max": 1e-6}})
Row = tuple[int, str, str]


def chain(length: int, model: str = "churn") -> list[Row]:
    rows, before = [], NOTHING
    for number in range(1, length + 1):
        at = f"2026-01-01T00:00:{number:02}.000+00:00"
        entry = sealed(Entry(number, at, model, "deployed", RELEASE, details={"why": "é"}, previous=before))
        rows.append((number, text_of(entry), entry.digest))
        before = entry.digest
    return rows


CHAIN = chain(4)


def changed(row: Row, **fields) -> Row:
    """With a digest that fits, as somebody who knows how would write it."""
    text = text_of(replace(entry_of(*row[1:]), **fields))
    return row[0], text, digest_of(text)


def test_an_entry_is_read_as_it_was_written():
    entry = sealed(
        Entry(1, "2026-01-01T00:00:00.000+00:00", "é\0\ud800", "started", RELEASE, 1, {"a": (1, 2.5)})
    )
    assert entry == entry_of(text_of(entry), entry.digest) and entry.digest == digest_of(text_of(entry))
    assert entry.details == {"a": [1, 2.5]} and entry.release == RELEASE and entry.previous == NOTHING


def test_what_json_cannot_say_is_not_written():
    with pytest.raises(ValueError, match="JSON compliant"):
        sealed(Entry(1, "", "churn", "deployed", details={"p99_ms": float("nan")}))


def test_a_whole_chain_holds_with_each_of_its_digests():
    assert first_fault([]) is None and first_fault(CHAIN) is None
    assert [first_fault(CHAIN, digest) for _, _, digest in CHAIN] == [None] * 4


@pytest.mark.parametrize(
    ("kept", "says"),
    [
        ([CHAIN[0], (2, CHAIN[1][1].replace("r1", "r2"), CHAIN[1][2]), *CHAIN[2:]], "entry 2 was changed"),
        ([*CHAIN[:3], (4, CHAIN[3][1], CHAIN[3][2].replace("a", "b"))], "entry 4 was changed"),
        ([*CHAIN[:3], (5, *CHAIN[3][1:])], "entry 4 is missing: 5 comes in its place"),
        ([CHAIN[0], changed(CHAIN[1], model="delay"), *CHAIN[2:]], "entry 3 does not follow"),
        (CHAIN[1:], "entry 1 is missing: 2 comes in its place"),
        ([*CHAIN[:1], *CHAIN[2:]], "entry 2 is missing: 3 comes in its place"),
        ([CHAIN[0], CHAIN[2], CHAIN[1], CHAIN[3]], "entry 2 is missing: 3 comes in its place"),
        ([CHAIN[0], (2, *CHAIN[2][1:]), (3, *CHAIN[1][1:]), CHAIN[3]], "entry 2 is in the place of another"),
        ([*CHAIN[:2], CHAIN[1], *CHAIN[2:]], "entry 3 is missing: 2 comes in its place"),
        ([*CHAIN[:2], changed((3, *CHAIN[1][1:]), sequence=3), *CHAIN[2:]], "entry 3 does not follow"),
        ([(1, "{}", digest_of("{}")), *CHAIN[1:]], "entry 1 can't be read"),
        ([(1, "[]", digest_of("[]"))], "entry 1 can't be read"),
        ([(1, b"\xff", "")], "entry 1 was changed"),
        ([(1, None, None)], "entry 1 was changed"),
    ],
    ids=[
        "text", "digest", "number", "text and digest", "first removed", "removed", "swapped", "swapped and "
        "numbered", "twice", "put in", "not an entry", "a list", "bytes", "nothing",
    ],
)  # fmt: skip
def test_a_damaged_chain_is_told_where(kept, says):
    assert (first_fault(kept) or "").startswith(says)


def test_any_byte_that_changes_is_found():
    rows = CHAIN[:2]
    for number, (sequence, text, digest) in enumerate(rows):
        for place in range(len(text)):
            other = text[:place] + chr(ord(text[place]) ^ 1) + text[place + 1 :]
            assert first_fault([*rows[:number], (sequence, other, digest), *rows[number + 1 :]])
        for place in range(len(digest)):
            other = digest[:place] + chr(ord(digest[place]) ^ 1) + digest[place + 1 :]
            assert first_fault([*rows[:number], (sequence, text, other), *rows[number + 1 :]])


def test_an_end_cut_off_or_a_chain_written_anew_is_found_by_a_digest_kept_elsewhere():
    head = CHAIN[-1][2]
    for kept in ([], CHAIN[:-1], chain(4, "delay")):
        assert first_fault(kept) is None
        assert (first_fault(kept, head) or "").startswith(f"no entry has the digest {head}")
    assert first_fault(chain(5), head) is None

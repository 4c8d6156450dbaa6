"""Whether clients of production can talk to a candidate: rule by rule, then against the service itself."""

from dataclasses import replace

import pytest
from pydantic import TypeAdapter, ValidationError

from bentos.contract import Contract, Field, Text
from bentos.schema import row_type
from pipelines.core.compatibility import compare_contracts, judge_compatibility

CARRIER = Field("carrier", "int64", categories=("AA", "B6", "DL"))
OPEN = replace(CARRIER, open=True)
TEMP = Field("temp", "float32", minimum=-40, maximum=130)
HOUR = Field("hour", "int64", minimum=0, maximum=23)
ANY = Field("n", "int64")
PIXELS = Field("pixels", "float32", (-1, 16))
IDS = Field("ids", "int64", (-1, -1))
TEXT = Text("text", "tokenizer.json", 16, "ids")
OUTPUT = Field("probability", "float32")
VECTOR = Field("embedding", "float32", (-1, 384))


def of(*inputs: Field, outputs: tuple[Field, ...] = (OUTPUT,)) -> Contract:
    return Contract(inputs, outputs)


@pytest.mark.parametrize(
    ("candidate", "production", "level", "differences"),
    [
        pytest.param(of(TEMP, HOUR), of(HOUR, TEMP), "full", (), id="order aside"),
        pytest.param(
            of(replace(CARRIER, categories=("DL", "AA", "B6"), dtype="int32")), of(CARRIER), "full", (),
            id="codes are internal",
        ),
        pytest.param(of(TEMP, HOUR), of(TEMP), "breaking", ("input hour: is new (breaking)",), id="added"),
        pytest.param(of(TEMP), of(TEMP, HOUR), "breaking", ("input hour: is gone (breaking)",), id="removed"),
        pytest.param(
            of(replace(TEMP, maximum=120)), of(TEMP), "breaking",
            ("input temp: maximum 120 was 130 (breaking)",), id="narrower",
        ),
        pytest.param(
            of(replace(TEMP, minimum=-60.5, maximum=None)), of(TEMP), "backward",
            ("input temp: minimum -60.5 was -40 (backward)", "input temp: maximum none was 130 (backward)"),
            id="wider",
        ),
        pytest.param(
            of(replace(TEMP, minimum=0, maximum=200)), of(TEMP), "breaking",
            ("input temp: minimum 0 was -40 (breaking)", "input temp: maximum 200 was 130 (backward)"),
            id="moved",
        ),
        pytest.param(
            of(replace(IDS, max_length=64)), of(IDS), "breaking",
            ("input ids: longest 64 was none (breaking)",), id="shorter",
        ),
        pytest.param(
            of(replace(IDS, max_length=64)), of(replace(IDS, max_length=32)), "backward",
            ("input ids: longest 64 was 32 (backward)",), id="longer",
        ),
        pytest.param(
            replace(of(IDS), text=TEXT), of(IDS), "backward", ("text text: is new (backward)",), id="a text",
        ),
        pytest.param(
            of(IDS), replace(of(IDS), text=TEXT), "breaking", ("text text: is gone (breaking)",),
            id="no text",
        ),
        pytest.param(
            replace(of(IDS), text=replace(TEXT, name="body")), replace(of(IDS), text=TEXT), "breaking",
            ("text text: is gone (breaking)", "text body: is new (backward)"), id="a text of another name",
        ),
        pytest.param(
            replace(of(IDS), text=replace(TEXT, max_tokens=8)), replace(of(IDS), text=TEXT), "backward",
            ("text text: is cut at 8 tokens, was at 16 (backward)",), id="a text that is cut earlier",
        ),
        pytest.param(
            of(replace(HOUR, minimum=-0.5)), of(HOUR), "backward",
            ("input hour: minimum -0.5 was 0 (backward)",), id="no whole number lies between",
        ),
        pytest.param(
            of(replace(HOUR, dtype="float32")), of(HOUR), "backward",
            ("input hour: float32 was int64 (backward)",), id="whole numbers are numbers",
        ),
        pytest.param(
            of(HOUR), of(replace(HOUR, dtype="float32")), "breaking",
            ("input hour: a whole number was a number (breaking)",), id="fractions are refused",
        ),
        pytest.param(
            of(replace(ANY, dtype="float16")), of(ANY), "breaking",
            ("input n: float16 was int64 (breaking)",), id="half floats end at 65504",
        ),
        pytest.param(
            of(replace(ANY, dtype="int32")), of(ANY), "breaking", ("input n: int32 was int64 (breaking)",),
            id="fewer bits",
        ),
        pytest.param(
            of(replace(HOUR, dtype="int8")), of(HOUR), "backward",
            ("input hour: int8 was int64 (backward)",), id="fewer bits that hold the range",
        ),
        pytest.param(
            of(replace(HOUR, categories=("0", "1"), minimum=None, maximum=None)), of(HOUR), "breaking",
            ("input hour: a category was a whole number (breaking)",), id="number to category",
        ),
        pytest.param(
            of(Field("carrier", "int64")), of(OPEN), "breaking",
            ("input carrier: a whole number was a category (breaking)",), id="category to number",
        ),
        pytest.param(
            of(Field("n", "bool")), of(ANY), "breaking",
            ("input n: a boolean was a whole number (breaking)",), id="number to boolean",
        ),
        pytest.param(
            of(replace(CARRIER, categories=("UA", "AA"))), of(CARRIER), "breaking",
            (
                "input carrier: categories B6, DL are refused now (breaking)",
                "input carrier: categories UA are new (backward)",
            ),
            id="categories lost",
        ),
        pytest.param(
            of(replace(OPEN, categories=("AA",))), of(OPEN), "backward",
            ("input carrier: categories B6, DL count as unknown now (backward)",), id="open takes any",
        ),
        pytest.param(
            of(OPEN), of(CARRIER), "backward",
            ("input carrier: other strings are accepted now (backward)",), id="opened",
        ),
        pytest.param(
            of(CARRIER), of(OPEN), "breaking",
            ("input carrier: other strings are refused now (breaking)",), id="closed",
        ),
        pytest.param(
            of(replace(CARRIER, categories=tuple("ABCDEFGH"))), of(replace(CARRIER, categories=("A",))),
            "backward", ("input carrier: categories B, C, D, E, F and 2 more are new (backward)",),
            id="many are counted",
        ),
        pytest.param(
            of(replace(TEMP, nullable=True)), of(TEMP), "backward",
            ("input temp: may be missing now (backward)",), id="nullable now",
        ),
        pytest.param(
            of(TEMP), of(replace(TEMP, nullable=True)), "breaking",
            ("input temp: may not be missing now (breaking)",), id="no longer nullable",
        ),
        pytest.param(
            of(replace(PIXELS, shape=(-1, -1))), of(PIXELS), "backward",
            ("input pixels: shape any was 16 (backward)",), id="dynamic now",
        ),
        pytest.param(
            of(PIXELS), of(replace(PIXELS, shape=(-1, -1))), "breaking",
            ("input pixels: shape 16 was any (breaking)",), id="fixed now",
        ),
        pytest.param(
            of(replace(PIXELS, shape=(-1, 4, 4))), of(PIXELS), "breaking",
            ("input pixels: shape 4×4 was 16 (breaking)",), id="another rank",
        ),
        pytest.param(
            of(replace(PIXELS, shape=(-1,))), of(PIXELS), "breaking",
            ("input pixels: shape of one value was 16 (breaking)",), id="vector to scalar",
        ),
        pytest.param(
            of(TEMP, outputs=(VECTOR, OUTPUT)), of(TEMP), "backward",
            ("output embedding: is new (backward)",), id="output added",
        ),
        pytest.param(
            of(TEMP, outputs=(VECTOR,)), of(TEMP), "breaking",
            ("output probability: is gone (breaking)", "output embedding: is new (backward)"),
            id="output renamed",
        ),
        pytest.param(
            of(TEMP, outputs=(replace(OUTPUT, dtype="float64"),)), of(TEMP), "backward",
            ("output probability: float64 was float32 (backward)",), id="output more exact",
        ),
        pytest.param(
            of(TEMP, outputs=(replace(OUTPUT, dtype="int64"),)), of(TEMP), "breaking",
            ("output probability: a whole number was a number (breaking)",), id="output retyped",
        ),
        pytest.param(
            of(TEMP, outputs=(replace(VECTOR, shape=(-1, 768)),)), of(TEMP, outputs=(VECTOR,)), "breaking",
            ("output embedding: shape 768 was 384 (breaking)",), id="output reshaped",
        ),
        pytest.param(
            of(TEMP, outputs=(replace(OUTPUT, nullable=True),)), of(TEMP), "breaking",
            ("output probability: may be missing now (breaking)",), id="output may be missing",
        ),
    ],
)  # fmt: skip
def test_a_change_of_the_contract_is_told_and_judged(candidate, production, level, differences):
    found = compare_contracts(candidate, production)
    assert (found.level, found.differences) == (level, differences)


FIELDS = [
    CARRIER, OPEN, replace(CARRIER, categories=("AA", "UA")), TEMP, replace(TEMP, nullable=True), HOUR, ANY,
    *(Field("x", dtype) for dtype in ("bool", "int8", "uint8", "int32", "uint64", "float16", "float64")),
    Field("x", "int32", minimum=0.5, maximum=7.5), Field("x", "float32", minimum=0.5), PIXELS,
    replace(PIXELS, shape=(-1, 2)), Field("x", "int64", maximum=100.0, nullable=True),
]  # fmt: skip
VALUES = [
    None, True, "AA", "B6", "UA", "ZZ", -129, -99, -1, 0, 1, 7, 8, 24, 127, 200, 65_505, 2**31,
    2**63 - 1, 2**63, -0.5, 0.4, 0.5, 7.5, 129.9, 1e5, 1e30, 1e300, [0.0] * 2, [0.0] * 16, [],
]  # fmt: skip


def accepted(field: Field) -> set[int]:
    """Which of VALUES the service takes for a field, by its own types."""
    row, taken = TypeAdapter(row_type(Contract((field,), ()))), set()
    for place, value in enumerate(VALUES):
        try:
            row.validate_python({field.name: value})
        except ValidationError:
            continue
        taken.add(place)
    return taken


def test_what_the_service_accepts_is_what_is_said_of_any_two_fields():
    fields = [replace(field, name="x") for field in FIELDS]
    takes = [accepted(field) for field in fields]
    for ours, now in zip(takes, fields, strict=True):
        for theirs, before in zip(takes, fields, strict=True):
            level = compare_contracts(Contract((now,), ()), Contract((before,), ())).level
            assert (level == "breaking") == bool(theirs - ours), (now, before)


def judged(candidate: Contract, production: Contract | None, allowed: bool = False):
    return judge_compatibility(candidate, production, allowed, "digest", "3")


def test_the_first_release_breaks_nobody():
    verdict = judge_compatibility(of(TEMP), None, False, "digest", None)
    assert (verdict.outcome, verdict.why) == ("pass", "no other version is in production")


@pytest.mark.parametrize(
    ("candidate", "allowed", "outcome", "level", "says"),
    [
        (of(TEMP, HOUR), False, "pass", "full", "has the inputs and outputs of version 3"),
        (
            of(TEMP, replace(HOUR, maximum=24)), False, "pass", "backward",
            "understands the clients of version 3: input hour: maximum 24 was 23 (backward)",
        ),
        (
            of(TEMP), False, "fail", "breaking",
            "breaks the clients of version 3: input hour: is gone (breaking); "
            "set allow_breaking_contract once they are ready for it",
        ),
        (
            of(TEMP), True, "pass", "breaking",
            "breaks the clients of version 3, which allow_breaking_contract permits: "
            "input hour: is gone (breaking)",
        ),
    ],
)  # fmt: skip
def test_only_a_breaking_contract_is_refused_unless_it_is_allowed(candidate, allowed, outcome, level, says):
    verdict = judged(candidate, of(TEMP, HOUR), allowed)
    assert verdict.gate == "contract_compatible_with_production"
    assert (verdict.outcome, verdict.why, verdict.subject) == (outcome, says, "digest")
    assert verdict.numbers == {"production_version": "3", "level": level}

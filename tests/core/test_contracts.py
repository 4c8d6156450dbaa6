"""The contract that is derived from a signature, the trained categories and the user's ranges."""

import pytest

from bentos.contract import Contract, Field
from pipelines.core.contracts import derive_contract, judged_output, refuse_default, refuse_key
from pipelines.core.errors import ContractBroken, SettingsInvalid
from pipelines.gateways.registry import Tensor

INPUTS = (
    Tensor("carrier", "int64", (-1,)),
    Tensor("distance", "float32", (-1,)),
    Tensor("pixels", "float32", (-1, 16)),
)
OUTPUTS = (Tensor("probability", "float32", (-1,)),)


def test_everything_that_is_known_of_a_field_is_in_it():
    metadata = {"categories": {"carrier": ["UA", "AA"]}, "open": ["carrier"]}
    assert derive_contract("m", INPUTS, OUTPUTS, metadata, {"distance": [0, 5000]}) == Contract(
        inputs=(
            Field("carrier", "int64", categories=("UA", "AA"), open=True),
            Field("distance", "float32", minimum=0, maximum=5000),
            Field("pixels", "float32", (-1, 16)),
        ),
        outputs=(Field("probability", "float32"),),
    )


def test_a_signature_alone_is_enough():
    fields = derive_contract("m", INPUTS, OUTPUTS, {}, {}).inputs
    assert [(field.categories, field.open, field.minimum) for field in fields] == [(None, False, None)] * 3


@pytest.mark.parametrize(
    ("metadata", "ranges", "says"),
    [
        ({}, {"distanze": [0, 1]}, "m breaks the contract: ranges name distanze; its inputs are"),
        ({"categories": {"origin": ["JFK"]}}, {}, "categories name origin"),
        ({"open": ["origin"]}, {}, "open name origin"),
    ],
)
def test_settings_of_no_input_are_refused(metadata, ranges, says):
    with pytest.raises(ContractBroken, match=says):
        derive_contract("m", INPUTS, OUTPUTS, metadata, ranges)


@pytest.mark.parametrize(
    ("tensor", "says"),
    [
        (
            Tensor("x", "float32", (8, 4)),
            r"x has the shape \(8, 4\); log it again with a signature whose first",
        ),
        (Tensor("x", "float32", ()), r"x has the shape \(\); log it again"),
        (Tensor("x", "str", (-1,)), "x holds str values; let it take and answer numbers"),
    ],
    ids=["a fixed batch", "no batch", "strings"],
)
def test_tensors_that_json_rows_do_not_make_are_refused(tensor, says):
    for inputs, outputs in (((tensor,), OUTPUTS), (INPUTS, (tensor,))):
        with pytest.raises(ContractBroken, match=says):
            derive_contract("m", inputs, outputs, {}, {})


def test_what_is_judged_is_the_first_output_or_the_named_one():
    contract = Contract((), (Field("p", "float32"), Field("v", "float32", (-1, 2))))
    assert (judged_output(contract, None), judged_output(contract, "v")) == ("p", "v")
    with pytest.raises(SettingsInvalid, match=r"gate\.output is 'q'; the model's outputs are p, v"):
        judged_output(contract, "q")
    refuse_key(contract, "id")
    with pytest.raises(SettingsInvalid, match=r"data\.key is 'v'; an output of the model has that name"):
        refuse_key(contract, "v")


OUTPUTS_OF_TWO = Contract((), (Field("p", "float32"), Field("v", "int64", (-1, 2))))


def test_a_default_answer_is_one_of_the_models():
    for answer in (None, {"p": 0.5, "v": [1, 2]}, {"v": [0, 0], "p": 1}):
        refuse_default(OUTPUTS_OF_TWO, answer)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ({}, "the model's outputs are p, v"),
        ({"p": 0.5}, "the model's outputs are p, v"),
        ({"p": "high", "v": [1, 2]}, "p is float32 of the shape"),
        ({"p": float("nan"), "v": [1, 2]}, "p is float32 of the shape"),
        ({"p": [0.5], "v": [1, 2]}, "p is float32 of the shape"),
        ({"p": 0.5, "v": [1, 2, 3]}, r"v is int64 of the shape \(2,\), and finite"),
        ({"p": 0.5, "v": [1.5, 2.5]}, "v is int64"),
        ({"p": 0.5, "v": [[1], [1, 2]]}, "v is int64"),
    ],
)
def test_a_default_answer_of_another_model_is_refused(answer, says):
    with pytest.raises(SettingsInvalid, match=rf"serving\.default_answer is .*{says}"):
        refuse_default(OUTPUTS_OF_TWO, answer)

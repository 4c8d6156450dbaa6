"""The contract that is derived from a signature, the trained categories and the user's ranges."""

import pytest

from bentos.contract import Contract, Field
from pipelines.core.contracts import derive_contract
from pipelines.core.errors import ContractBroken
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

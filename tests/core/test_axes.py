"""Which dimensions are equally long and how long they may be, as the model's graph says."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from bentos.contract import Contract, Field
from pipelines.core.axes import with_axes
from tests.assets.kinds import ROWS, TOKENS, archive
from tests.core.nets import save

IDS = torch.ones(2, 3, dtype=torch.int64)
CONTRACT = Contract(
    (Field("ids", "int64", (-1, -1)), Field("mask", "int64", (-1, -1))),
    (Field("sum", "float32", (-1, 4)), Field("states", "float32", (-1, -1, 4))),
)


class Net(nn.Module):
    """Adds `positions(ids)` to the words' vectors, of which there may be `places`."""

    def __init__(self, positions=None, places: int = 32) -> None:
        super().__init__()
        self.words, self.places, self.positions = nn.Embedding(50, 4), nn.Embedding(places, 4), positions
        self.register_buffer("every_place", torch.arange(places)[None])

    def forward(self, ids, mask):
        states = self.words(ids) * mask[..., None]
        if self.positions:
            states = states + self.places(self.positions(self, ids))
        return states.sum(1), states


def by_arange(net, ids):
    return torch.arange(ids.shape[1])


def by_arange_of_rows(net, ids):
    return torch.arange(0, ids.shape[1]).unsqueeze(0).expand(ids.shape)


def by_slice(net, ids):
    return net.every_place[:, : ids.shape[1]]


def after_one(net, ids):
    return torch.arange(ids.shape[1]).clamp(max=31)


def exported(path, net: nn.Module, *, tokens=TOKENS) -> Contract:
    sizes = ({0: ROWS, 1: tokens}, {0: ROWS, 1: tokens})
    return with_axes(CONTRACT, "pt2", archive(path / "net.pt2", net, (IDS, IDS.clone()), sizes))


@pytest.mark.parametrize(
    ("net", "options", "most"),
    [
        pytest.param(Net(), {}, None, id="no limit"),
        pytest.param(Net(), {"tokens": torch.export.Dim("tokens", max=40)}, 40, id="a limit that was set"),
        pytest.param(Net(by_slice), {"tokens": torch.export.Dim.AUTO}, 32, id="a limit that was found"),
        pytest.param(Net(by_arange), {}, 32, id="positions"),
        pytest.param(Net(by_arange_of_rows), {}, 32, id="positions of every row"),
        pytest.param(Net(after_one), {}, None, id="positions that are computed with"),
        pytest.param(
            Net(by_arange), {"tokens": torch.export.Dim("tokens", max=16)}, 16, id="the lesser of two limits"
        ),
    ],
)
def test_an_archive_tells_what_is_equally_long_and_how_long_it_may_be(tmp_path, net, options, most):
    told = exported(tmp_path, net, **options)
    ids, mask = told.inputs
    assert ids == replace(CONTRACT.inputs[0], axes=("length",), max_length=most)
    assert (mask.axes, mask.max_length) == (ids.axes, most)
    assert told.outputs == (
        CONTRACT.outputs[0],
        replace(CONTRACT.outputs[1], axes=("length", ""), max_length=most),
    )


def onnx_file(path, ids: str, mask: str):
    return save(
        f"""
        <ir_version: 10, opset_import: ["": 20]>
        net (int64[N, {ids}] ids, int64[N, {mask}] mask) => (float[N] sum, float[N, {ids}] states)
        {{ states = Cast <to = 1> (ids)  axis = Constant <value_ints = [1]> ()
           all = Cast <to = 1> (mask)  total = ReduceSum <keepdims = 0> (all, axis)  sum = Identity (total) }}
        """,
        path / "net.onnx",
    )


@pytest.mark.parametrize(
    ("ids", "mask", "axes"),
    [("T", "T", ["length"] * 2), ("T", "S", ["length", "length_2"]), ("?", "?", ["length", "length_2"])],
    ids=["one name", "two names", "no names"],
)
def test_an_onnx_file_tells_by_the_names_of_its_dimensions(tmp_path, ids, mask, axes):
    contract = replace(CONTRACT, outputs=(Field("sum", "float32"), Field("states", "float32", (-1, -1))))
    told = with_axes(contract, "onnx", onnx_file(tmp_path, ids, mask))
    assert [field.axes[0] for field in told.inputs] == axes
    assert [field.max_length for field in told.inputs] == [None, None]


def test_where_every_size_is_fixed_nothing_is_read(tmp_path):
    contract = Contract((Field("x", "float32"),), (Field("y", "float32", (-1, 2)),))
    assert with_axes(contract, "pt2", tmp_path / "nothing.pt2") is contract

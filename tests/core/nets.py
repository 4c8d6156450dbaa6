"""Small nets of several kinds, as ONNX files with dynamic batches, and rows to feed them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from pipelines.core.evaluate import Tensors

BATCH = 64
OUTLIER = 3000.0


def export(net, example: np.ndarray, path: Path, dynamic: int = 1) -> Path:
    """As the pipeline exports: `dynamic` sizes of the input x vary, the first of them the batch."""
    import torch

    sizes = dict.fromkeys(range(dynamic), torch.export.Dim.DYNAMIC)
    program = torch.export.export(net.eval(), (torch.from_numpy(example),), dynamic_shapes=(sizes,))
    written = torch.onnx.export(
        program, (), input_names=["x"], output_names=["y"], opset_version=20, dynamo=True, verbose=False
    )
    assert written is not None
    written.save(str(path), external_data=False)
    return path


def mlp(path: Path) -> Path:
    import torch
    from torch import nn

    torch.manual_seed(0)
    layers = nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3)
    return export(nn.Sequential(*layers), np.zeros((3, 8), np.float32), path)


def convolutions(path: Path) -> Path:
    import torch
    from torch import nn

    torch.manual_seed(0)
    convolved = [nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()]
    return export(
        nn.Sequential(*convolved, nn.Flatten(), nn.Linear(32, 3)), np.zeros((3, 1, 8, 8), np.float32), path
    )


def attention(path: Path) -> Path:
    """Rows are sequences of any length."""
    import torch
    from torch import nn

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key, self.value, self.out = (nn.Linear(8, 8) for _ in range(4))

        def forward(self, x):
            weights = (self.query(x) @ self.key(x).transpose(1, 2)).softmax(-1)
            return self.out(x + weights @ self.value(x)).mean(1)

    torch.manual_seed(0)
    return export(Attention(), np.zeros((3, 5, 8), np.float32), path, dynamic=2)


def handmade(path: Path) -> Path:
    """An old opset, nodes without names, a weight that is computed, and a node that nothing reads."""
    return save(
        """
        <ir_version: 8, opset_import: ["": 11]>
        net (float[N, 2] x) => (float[N, 2] y)
        <float[2, 2] half = {0.5, -1.5, 1.0, 0.25}, float two = {2}>
        { w = Mul(half, two)  h = MatMul(x, w)  unread = Exp(h)  y = Tanh(h) }
        """,
        path,
    )


def save(text: str, path: Path) -> Path:
    """A model in ONNX's own notation."""
    import onnx

    onnx.save(onnx.parser.parse_model(text), path)
    return path


def outliers(path: Path) -> Path:
    """Three products; the second reads a channel so large that INT8 leaves nothing of the others."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    first, second, third = (
        rng.normal(0, 0.4, size).astype(np.float32) for size in ((8, 16), (16, 16), (16, 3))
    )
    first[:, 0] *= OUTLIER
    second[0] /= OUTLIER
    weights = {"first": first, "ruined": second, "third": third}
    nodes, value = [], "x"
    for name in weights:
        nodes.append(helper.make_node("MatMul", [value, f"{name}_weight"], [f"{name}_product"], name=name))
        nodes.append(helper.make_node("LeakyRelu", [f"{name}_product"], [f"{name}_out"], alpha=0.5))
        value = f"{name}_out"
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", size])
        for name, size in (("x", 8), (value, 3))
    ]
    constants = [numpy_helper.from_array(array, f"{name}_weight") for name, array in weights.items()]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def rows(*size: int, batches: int = 3) -> Callable[[], Iterator[Tensors]]:
    """A stream of batches of standard normal rows of that size; it can be started again."""

    def stream() -> Iterator[Tensors]:
        rng = np.random.default_rng(1)
        for _ in range(batches):
            yield {"x": rng.normal(size=(BATCH, *size)).astype(np.float32)}

    return stream


def sequences() -> Iterator[Tensors]:
    """Batches whose sequences differ in length."""
    rng = np.random.default_rng(1)
    for length in (4, 9, 2):
        yield {"x": rng.normal(size=(BATCH, length, 8)).astype(np.float32)}


NETS: dict[str, tuple[Callable[[Path], Path], Callable[[], Iterator[Tensors]]]] = {
    "mlp": (mlp, rows(8)),
    "convolutions": (convolutions, rows(1, 8, 8)),
    "attention": (attention, sequences),
    "handmade": (handmade, rows(2)),
}

"""Small models written out as ONNX text, each with its contract: what `Engine(*save_…(path))` takes."""

from pathlib import Path

from bentos.contract import Contract, Field

HEAD = '<ir_version: 10, opset_import: ["" : 20]>'


def save_graph(path: Path, nodes: str, dtype: str = "float32") -> tuple[Path, Contract]:
    """A model from x to y, one number a row each."""
    kind = {"float32": "float", "float64": "double"}.get(dtype, dtype)
    _save(path, f"{HEAD} g ({kind}[rows] x) => ({kind}[answers] y) {{{nodes}}}")
    return path, Contract((Field("x", dtype),), (Field("y", dtype),))


def save_text(path: Path) -> tuple[Path, Contract]:
    """each = ids * mask, one number a token; total is their sum. No text is longer than 32."""
    signature = (
        "(int64[rows, tokens] ids, int64[rows, tokens] mask) => (int64[rows] total, int64[rows, tokens] each)"
    )
    nodes = (
        "at = Constant<value_ints = [1]>() each = Mul(ids, mask) total = ReduceSum<keepdims = 0>(each, at)"
    )
    _save(path, f"{HEAD} g {signature} {{{nodes}}}")
    tokens = {"shape": (-1, -1), "axes": ("tokens",)}
    inputs = Field("ids", "int64", max_length=32, **tokens), Field("mask", "int64", maximum=1, **tokens)
    return path, Contract(inputs, (Field("total", "int64"), Field("each", "int64", **tokens)))


def save_lookup(path: Path) -> tuple[Path, Contract]:
    """y = the x-th of four numbers; any other x makes the model raise."""
    numbers = "table = Constant<value_floats = [0.0, 1.0, 2.0, 3.0]>() y = Gather(table, x)"
    _save(path, f"{HEAD} g (int64[rows] x) => (float[rows] y) {{{numbers}}}")
    return path, Contract((Field("x", "int64"),), (Field("y", "float32"),))


def _save(path: Path, text: str) -> None:
    from onnx import parser, save

    save(parser.parse_model(text), path)

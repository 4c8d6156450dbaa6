"""Models that differ in kind, each with its rows and settings: what a world can be made of."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from pipelines.core.rungs import NAMES as RUNGS
from pipelines.gateways.registry import Tensor
from tests.assets import world
from tests.assets.world import SETTINGS, World, save_net
from tests.core.nets import save

ROWS, TOKENS = torch.export.Dim("rows"), torch.export.Dim("tokens")
WORDS = 20
TAGS = ["new", "o'clock", "[used]"]


@dataclass(frozen=True)
class Kind:
    """A model: `save` writes it to a path, `rows` makes labelled data from a seed.

    `settings` are what it sets otherwise than `world.SETTINGS`, by section of defs.yaml.
    """

    save: Callable[[Path], Path]
    rows: Callable[[int], pd.DataFrame]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    settings: dict
    form: str = "pt2"
    metadata: dict = field(default_factory=dict)
    tokenizer: Callable[[Path], Path] | None = None

    def world(self, root: Path) -> World:
        """An installation with this model's data and settings."""
        merged = {
            name: value | self.settings.get(name, {}) if isinstance(value, dict) else value
            for name, value in SETTINGS.items()
        }
        return World(root, {**merged, "ranges": {}}, rows=self.rows)

    def register(self, installed: World) -> str:
        """The model as the next version."""
        file = self.save(installed.root / f"model.{self.form}")
        tokenizer = self.tokenizer(installed.root / "tokenizer.json") if self.tokenizer else None
        return installed.registry.add(
            "tiny", file, self.inputs, self.outputs, self.form, self.metadata, tokenizer
        )


def archive(path: Path, net: nn.Module, args: tuple, dynamic: tuple) -> Path:
    torch.export.save(torch.export.export(net.eval(), args, dynamic_shapes=dynamic), path)
    return path


def data(rng: np.random.Generator, count: int, **columns) -> pd.DataFrame:
    return pd.DataFrame({"id": rng.permutation(count), **columns})


# A regression, whose label has the name of its output.


class Fares(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.sums = nn.Linear(2, 1)
        with torch.no_grad():
            self.sums.weight[:], self.sums.bias[:] = torch.tensor([[2.0, 0.5]]), 3.0

    def forward(self, miles, minutes):
        return self.sums(torch.stack([miles, minutes], 1)).squeeze(1)


def fares(seed: int, count: int = 600) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    miles, minutes = rng.exponential(3, count).astype("float32"), rng.integers(1, 60, count)
    fare = 3 + 2 * miles + 0.5 * minutes + rng.normal(0, 2, count)
    return data(rng, count, miles=miles, minutes=minutes, fare=fare)


REGRESSION = Kind(
    lambda path: archive(path, Fares(), (torch.ones(2), torch.ones(2)), ({0: ROWS}, {0: ROWS})),
    fares,
    (Tensor("miles", "float32", (-1,)), Tensor("minutes", "float32", (-1,))),
    (Tensor("fare", "float32", (-1,)),),
    {"data": {"label": "fare"}, "gate": {"metric": "rmse", "max_drop": 0.1}, "monitoring": {"max_drop": 2}},
)


# Three classes, from a vector of four numbers.


def classes(path: Path, *after: nn.Module) -> Path:
    torch.manual_seed(0)
    first, last = nn.Linear(4, 32), nn.Linear(32, 3)
    with torch.no_grad():
        first.weight[:3], last.weight[:, :3] = 4 * torch.eye(3, 4), torch.eye(3)
    return archive(path, nn.Sequential(first, nn.ReLU(), last, *after), (torch.ones(2, 4),), ({0: ROWS},))


def flowers(seed: int, count: int = 600) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    species = rng.integers(0, 3, count)
    sizes = rng.normal(np.eye(3, 4)[species], 0.5).astype("float32")
    return data(rng, count, sizes=list(sizes), y=species)


def many_classes(*after: nn.Module, **gate) -> Kind:
    return Kind(
        lambda path: classes(path, *after),
        flowers,
        (Tensor("sizes", "float32", (-1, 4)),),
        (Tensor("probabilities", "float32", (-1, 3)),),
        {"gate": gate},
    )


# Texts of any length, with two answers, one named like a weight within.


class Texts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.probability = nn.Embedding(WORDS, 8), nn.Linear(8, 1)
        with torch.no_grad():
            self.embedding.weight[:, 0] = torch.arange(WORDS) / 5.0 - 2
            self.probability.weight[:], self.probability.bias[:] = torch.eye(1, 8) * 4, 0.0

    def forward(self, ids, mask):
        mean = (self.embedding(ids) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return {"probability": torch.sigmoid(self.probability(mean)).squeeze(1), "embedding": mean}


def texts(path: Path, net: nn.Module) -> Path:
    ids, sizes = torch.ones(2, 3, dtype=torch.int64), {0: ROWS, 1: TOKENS}
    return archive(path, net, (ids, ids.clone()), (sizes, sizes))


def ragged(seed: int, count: int = 600) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    ids = [rng.integers(1, WORDS, length) for length in rng.integers(1, 9, count)]
    chance = 1 / (1 + np.exp(-4 * np.array([row.mean() / 5 - 2 for row in ids])))
    return data(rng, count, ids=ids, mask=[np.ones_like(row) for row in ids], y=rng.random(count) < chance)


SEQUENCES = Kind(
    lambda path: texts(path, Texts()),
    ragged,
    (Tensor("ids", "int64", (-1, -1)), Tensor("mask", "int64", (-1, -1))),
    (Tensor("embedding", "float32", (-1, 8)), Tensor("probability", "float32", (-1,))),
    {"gate": {"metric": "auc", "output": "probability"}},
)


# The same texts as they are written, of a model that was registered with its tokenizer.


def word_tokenizer(path: Path, cut: int | None = 8) -> Path:
    """A tokenizer.json that knows the words w1, w2, …, whose token is the number, and cuts after `cut`."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({f"w{word}": word for word in range(WORDS)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    if cut:
        words.enable_truncation(cut)
    words.save(str(path))
    return path


def written(seed: int, count: int = 600) -> pd.DataFrame:
    rows = ragged(seed, count)
    rows["text"] = [" ".join(f"w{word}" for word in ids) for ids in rows["ids"]]
    return rows.drop(columns=["ids", "mask"])


TEXTS = replace(
    SEQUENCES,
    rows=written,
    inputs=(Tensor("input_ids", "int64", (-1, -1)), Tensor("attention_mask", "int64", (-1, -1))),
    tokenizer=word_tokenizer,
)


# Vectors from pictures: no column holds one number.


def five_of_six(path: Path) -> Path:
    chosen = ", ".join(f"{number:g}" for number in np.eye(6, 5).ravel())
    return save(
        f"""
        <ir_version: 10, opset_import: ["": 20]>
        net (float[N, 2, 3] pixels) => (float[N, 5] vector) <float[6, 5] chosen = {{{chosen}}}>
        {{ flat = Flatten(pixels)  vector = MatMul(flat, chosen) }}
        """,
        path,
    )


def pictures(seed: int, count: int = 600) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    pixels = rng.normal(size=(count, 2, 3)).astype("float32")
    target = pixels.reshape(count, 6)[:, :5] + rng.normal(0, 0.2, (count, 5))
    return data(rng, count, pixels=[list(row) for row in pixels], y=list(target))


EMBEDDING = Kind(
    five_of_six,
    pictures,
    (Tensor("pixels", "float32", (-1, 2, 3)),),
    (Tensor("vector", "float32", (-1, 5)),),
    {"gate": {"metric": "cosine"}},
    "onnx",
)


# An ONNX file whose weights lie beside it.


def beside(path: Path, everything: bool = False) -> Path:
    """Weights lie beside, and with `everything` also what shapes are made of, which nobody should do."""
    import onnx

    model = onnx.load(save_net(path.with_name("whole.onnx")))
    for tensor in model.graph.initializer:
        if everything or tensor.data_type == onnx.TensorProto.FLOAT:
            onnx.external_data_helper.set_external_data(tensor, f"{path.name}.data")
    onnx.save(model, path)
    return path


EXTERNAL = Kind(
    beside,
    world.rows,
    world.INPUTS,
    world.OUTPUTS,
    {"gate": {"metric": "tests.assets.own:top_decile", "max_drop": 0.01}},
    "onnx",
    world.METADATA,
)


# Values of every type, taken and answered: lists of categories, booleans, whole numbers stored as floats.


class Offers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(TAGS) + 1, 1)
        with torch.no_grad():
            self.embedding.weight[:] = torch.tensor([[0.0], [2.0], [-1.0], [-2.0]])

    def forward(self, tags, hour, loud):
        score = self.embedding(tags).squeeze(2).sum(1) + (hour - 12) / 6.0 + loud.float()
        return torch.sigmoid(score), tags.sum(1) + hour, score > 0


def offers(seed: int, count: int = 600) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    tags = [rng.choice(len(TAGS), rng.integers(1, 4), replace=False) for _ in range(count)]
    hour, loud = rng.integers(0, 24, count), rng.random(count) < 0.5
    score = np.array([np.array([2, -1, -2])[row].sum() for row in tags]) + (hour - 12) / 6 + loud
    return data(
        rng, count,
        tags=[[TAGS[tag] for tag in row] for row in tags], hour=hour.astype("float64"), loud=loud,
        y=(rng.random(count) < 1 / (1 + np.exp(-score))).astype("int64"),
    )  # fmt: skip


MIXED = Kind(
    lambda path: archive(
        path,
        Offers(),
        (
            torch.ones(2, 3, dtype=torch.int64),
            torch.ones(2, dtype=torch.int64),
            torch.ones(2, dtype=torch.bool),
        ),
        ({0: ROWS, 1: TOKENS}, {0: ROWS}, {0: ROWS}),
    ),
    offers,
    (Tensor("tags", "int64", (-1, -1)), Tensor("hour", "int64", (-1,)), Tensor("loud", "bool", (-1,))),
    (Tensor("probability", "float32", (-1,)), Tensor("rows", "int64", (-1,)), Tensor("file", "bool", (-1,))),
    {"gate": {"metric": "auc"}},
    metadata={"categories": {"tags": TAGS}},
)

KINDS = {
    "regression": REGRESSION,
    "classes by accuracy": many_classes(nn.Softmax(1), metric="accuracy"),
    "classes by log loss, all rungs": many_classes(nn.Softmax(1), metric="log_loss", rungs=list(RUNGS)),
    "sequences": SEQUENCES,
    "texts": TEXTS,
    "embedding": EMBEDDING,
    "external data, own metric": EXTERNAL,
    "values of every type": MIXED,
}

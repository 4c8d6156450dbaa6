"""A larger net on the example's rows, each as one vector: categories one-hot, numbers standardised."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import nn

from bentos.contract import Contract, Field
from pipelines.core.evaluate import Tensors
from pipelines.defs.flight_delay.net import WEEKDAYS
from pipelines.defs.flight_delay.tables import CATEGORIES, LABEL, NUMERICS
from tests.zoo import Specimen, kept
from tests.zoo.flights import encoded, splits
from tests.zoo.training import archive, fit, seeded

HIDDEN = (1024, 1024, 1024)
TRAINING_ROWS = 16_384
SEED = 1024


def load(folder: Path) -> Specimen:
    """Will a flight from New York arrive late?"""
    return kept("mlp", folder, make)


def make(source: Path) -> Specimen:
    """Train the net and write its archive."""
    parts, columns = splits()
    feeds = {name: encoded(columns, rows) for name, rows in parts.items()}
    vectors = {name: {"features": _vectors(rows, feeds["reference"])} for name, rows in feeds.items()}
    late = {name: rows[LABEL].to_numpy() for name, rows in parts.items()}
    net = _trained(vectors["reference"]["features"], late["reference"])
    width = vectors["holdout"]["features"].shape[1]
    contract = Contract((Field("features", "float32", (-1, width)),), (Field("probability", "float32"),))
    archive(net, contract, vectors["holdout"], source)
    calibration, holdout = vectors["calibration"], vectors["holdout"]
    return Specimen("mlp", "pt2", source, contract, calibration, holdout, late["holdout"], "auc", [1, 8, 64])


def _vectors(feeds: Tensors, reference: Tensors) -> np.ndarray:
    sizes = {**{name: int(reference[name].max()) + 1 for name in CATEGORIES}, "weekday": WEEKDAYS}
    codes = [np.eye(size, dtype=np.float32)[feeds[name]] for name, size in sizes.items()]
    numbers = [(feeds[name] - reference[name].mean()) / reference[name].std() for name in NUMERICS]
    return np.column_stack([*codes, *numbers]).astype(np.float32)


def _trained(vectors: np.ndarray, late: np.ndarray) -> nn.Module:
    with seeded(SEED):
        rows = torch.randperm(len(late))[:TRAINING_ROWS]
        inputs, labels = torch.from_numpy(vectors)[rows], torch.from_numpy(late)[rows].float()
        widths = pairwise((vectors.shape[1], *HIDDEN))
        layers = [layer for a, b in widths for layer in (nn.Linear(a, b), nn.ReLU())]
        logit = nn.Sequential(*layers, nn.Linear(HIDDEN[-1], 1), nn.Flatten(0))
        loss = nn.functional.binary_cross_entropy_with_logits
        fit(logit, inputs, labels, loss, epochs=2, batch_rows=256, learning_rate=5e-4)
        return nn.Sequential(logit, nn.Sigmoid())

"""A CNN on scikit-learn's 1797 scanned digits of 8 x 8 pixels."""

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from bentos.contract import Contract, Field
from tests.zoo import Specimen, kept
from tests.zoo.training import archive, fit, seeded

CONTRACT = Contract(
    (Field("image", "float32", (-1, 1, 8, 8)),), (Field("probabilities", "float32", (-1, 10)),)
)
TRAINING_ROWS, CALIBRATION_ROWS = 800, 200
CHANNELS = (32, 64, 64)
SEED = 8


def load(folder: Path) -> Specimen:
    """Which digit is it?"""
    return kept("digits", folder, make)


def make(source: Path) -> Specimen:
    """Train the net and write its archive."""
    pixels, digits = load_digits(return_X_y=True)
    order = np.random.default_rng(SEED).permutation(len(digits))
    images = (pixels[order] / 16).reshape(-1, 1, 8, 8).astype(np.float32)
    labels = digits[order].astype(np.int64)
    parts = np.split(np.arange(len(order)), [TRAINING_ROWS, TRAINING_ROWS + CALIBRATION_ROWS])
    net = _trained(images[parts[0]], labels[parts[0]])
    calibration, holdout = ({"image": images[part]} for part in parts[1:])
    archive(net, CONTRACT, holdout, source)
    return Specimen(
        "digits", "pt2", source, CONTRACT, calibration, holdout, labels[parts[2]], "accuracy", [1, 8, 64]
    )


def _trained(images: np.ndarray, labels: np.ndarray) -> nn.Module:
    first, second, third = CHANNELS
    with seeded(SEED):
        logits = nn.Sequential(
            nn.Conv2d(1, first, 3, padding=1), nn.BatchNorm2d(first), nn.ReLU(),
            nn.Conv2d(first, second, 3, padding=1), nn.BatchNorm2d(second), nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(second, third, 3, padding=1), nn.BatchNorm2d(third), nn.ReLU(),
            nn.Flatten(), nn.Linear(third * 16, 10),
        )  # fmt: skip
        loss = nn.functional.cross_entropy
        inputs, truth = torch.from_numpy(images), torch.from_numpy(labels)
        fit(logits, inputs, truth, loss, epochs=8, batch_rows=32, learning_rate=1e-3)
        return nn.Sequential(logits, nn.Softmax(1))

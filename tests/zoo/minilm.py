"""all-MiniLM-L6-v2 with a head that was trained to tell pleased tweets from others."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load as read_weights
from torch import nn

from bentos.contract import Contract, Field
from pipelines.core.evaluate import Tensors, row_count, take
from tests.zoo import Specimen, kept
from tests.zoo.bert import WIDTH, Encoder, encoder
from tests.zoo.texts import downloaded, tokens, tweets
from tests.zoo.training import archive, fit, seeded

CONTRACT = Contract(
    (Field("input_ids", "int64", (-1, -1)), Field("attention_mask", "int64", (-1, -1))),
    (Field("probability", "float32"), Field("embedding", "float32", (-1, WIDTH))),
)
HOLDOUT_ROWS, CALIBRATION_ROWS, TRAINING_ROWS = 1500, 256, 1600
BATCH_ROWS = 32
SEED = 6


class Sentiment(nn.Module):
    """The probability that a text is positive, and the vector it was judged by."""

    def __init__(self, encoder: Encoder, logit: nn.Module) -> None:
        super().__init__()
        self.encoder, self.logit = encoder, logit

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple:
        vectors = self.encoder(input_ids, attention_mask)
        return torch.sigmoid(self.logit(vectors)), vectors


def load(folder: Path) -> Specimen:
    """Is the writer of the tweet pleased?"""
    return kept("minilm", folder, make)


def make(source: Path) -> Specimen:
    """Train the head and write the archive of the whole."""
    weights, tokenizer, resources = downloaded()
    texts, labels = tweets(resources)
    order = np.random.default_rng(SEED).permutation(len(texts))
    parts = np.split(order, np.cumsum([HOLDOUT_ROWS, CALIBRATION_ROWS, TRAINING_ROWS]))[:3]
    holdout, calibration, training = (tokens(tokenizer, [texts[at] for at in part]) for part in parts)
    net = encoder(read_weights(weights))
    sentiment = Sentiment(net, _trained_head(net, training, labels[parts[2]]))
    archive(sentiment, CONTRACT, holdout, source)
    return Specimen(
        "minilm", "pt2", source, CONTRACT, calibration, holdout, labels[parts[0]], "auc", [1, 8, 32]
    )


def _trained_head(net: Encoder, feeds: Tensors, labels: np.ndarray) -> nn.Module:
    with seeded(SEED):
        vectors = _vectors(net, feeds)
        logit = nn.Sequential(nn.Linear(WIDTH, 1), nn.Flatten(0))
        loss = nn.functional.binary_cross_entropy_with_logits
        truth = torch.from_numpy(labels).float()
        fit(logit, vectors, truth, loss, epochs=60, batch_rows=64, learning_rate=1e-2)
        return logit


def _vectors(net: Encoder, feeds: Tensors) -> torch.Tensor:
    """One vector a row. Rows of like length share a batch, to save the padding to the length of others."""
    lengths = feeds["attention_mask"].sum(1)
    vectors = torch.empty(row_count(feeds), WIDTH)
    with torch.inference_mode():
        for start in range(0, len(lengths), BATCH_ROWS):
            rows = np.argsort(lengths)[start : start + BATCH_ROWS]
            batch = take(feeds, rows)
            cut = [torch.from_numpy(batch[name][:, : lengths[rows].max()]) for name in batch]
            vectors[rows] = net(*cut)
    return vectors

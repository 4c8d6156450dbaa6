"""The net of the example and how it learns: embeddings of the categories, two layers, one probability.

Torch is imported inside the functions: whoever only looks at the assets should not wait for it.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipelines.defs.flight_delay.tables import CATEGORIES, FEATURES, NUMERICS

if TYPE_CHECKING:
    import torch

WEEKDAYS = 7
WIDTH = 8
HIDDEN = (128, 64)
EPOCHS = 3
BATCH_ROWS = 256
LEARNING_RATE = 2e-3
FORGOTTEN_SHARE = 0.01
SEED = 2013


def train(feeds: Mapping[str, np.ndarray], late: np.ndarray) -> tuple["torch.nn.Module", list[float]]:
    """A net that learned from encoded columns, and its mean loss in each epoch. Seeded and on one thread, so
    equal rows give equal weights."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            net = _build_net(feeds)
            inputs = [torch.from_numpy(feeds[name]) for name in FEATURES]
            return net, _learn(net, inputs, torch.from_numpy(late.astype(np.float32)))
    finally:
        torch.set_num_threads(threads)


def _learn(net, inputs: Sequence["torch.Tensor"], late: "torch.Tensor") -> list[float]:
    import torch

    optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE)
    losses = []
    for _ in range(EPOCHS):
        total = 0.0
        for rows in torch.randperm(len(late)).split(BATCH_ROWS):
            codes = [_forgetful(column[rows]) for column in inputs[: len(CATEGORIES)]]
            probability = net(*codes, *(column[rows] for column in inputs[len(CATEGORIES) :]))
            loss = torch.nn.functional.binary_cross_entropy(probability, late[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
        losses.append(total / len(late))
    return losses


def _forgetful(codes: "torch.Tensor") -> "torch.Tensor":
    """A few codes become 0, so that the net learns what to expect of a value it never saw."""
    import torch

    return torch.where(torch.rand(len(codes)) < FORGOTTEN_SHARE, 0, codes)


def _build_net(feeds: Mapping[str, np.ndarray]) -> "torch.nn.Module":
    """An untrained net that takes one tensor of shape (N,) a feature, and returns N probabilities. It
    standardises the numbers itself, by the rows in `feeds`, so training and serving cannot differ in that."""
    import torch
    from torch import nn

    numbers = np.stack([feeds[name] for name in NUMERICS], axis=1).astype(np.float64)
    sizes = [int(feeds[name].max()) + 1 for name in CATEGORIES] + [WEEKDAYS]
    first, second = HIDDEN

    class DelayNet(nn.Module):
        means: torch.Tensor
        deviations: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("means", torch.tensor(numbers.mean(axis=0), dtype=torch.float32))
            self.register_buffer("deviations", torch.tensor(numbers.std(axis=0), dtype=torch.float32))
            self.embeddings = nn.ModuleList(nn.Embedding(size, WIDTH) for size in sizes)
            self.layers = nn.Sequential(
                nn.Linear(WIDTH * len(sizes) + len(NUMERICS), first),
                nn.ReLU(),
                nn.Linear(first, second),
                nn.ReLU(),
                nn.Linear(second, 1),
            )

        # torch.export wants one named argument an input, so they are spelt out in the order of FEATURES.
        # fmt: off
        def forward(self, carrier, origin, dest, weekday, sched_dep_minute, sched_arr_minute, distance,
                    temp, dewp, humid, wind_speed, precip, pressure, visib):
            numbers = torch.stack([sched_dep_minute, sched_arr_minute, distance,
                                   temp, dewp, humid, wind_speed, precip, pressure, visib], dim=1)
            # fmt: on
            codes = zip(self.embeddings, (carrier, origin, dest, weekday), strict=True)
            standardised = (numbers - self.means) / self.deviations
            rows = torch.cat([*(table(code) for table, code in codes), standardised], dim=1)
            return torch.sigmoid(self.layers(rows))[:, 0]

    return DelayNet()

"""How the specimens learn, and how they become archives."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from bentos.contract import Contract
from pipelines.core.evaluate import Tensors, take

AXES = ("rows", "tokens")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """One thread and this seed for what is inside; the caller's threads and random numbers come back."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


def fit(
    net: torch.nn.Module,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    *,
    epochs: int,
    batch_rows: int,
    learning_rate: float,
) -> None:
    """Train the net by Adam on shuffled batches."""
    optimizer = torch.optim.Adam(net.parameters(), lr=learning_rate)
    for _ in range(epochs):
        for rows in torch.randperm(len(labels)).split(batch_rows):
            optimizer.zero_grad()
            loss(net(inputs[rows]), labels[rows]).backward()
            optimizer.step()


def archive(net: torch.nn.Module, contract: Contract, feeds: Tensors, target: Path) -> None:
    """Write the net as torch.export does, every -1 of the inputs dynamic; `feeds` start with an example."""
    dims = [torch.export.Dim(axis) for axis in AXES]
    shapes = tuple(
        {axis: dims[axis] for axis, size in enumerate(field.shape) if size == -1} for field in contract.inputs
    )
    two = take(feeds, slice(0, 2))
    example = tuple(torch.from_numpy(two[field.name]) for field in contract.inputs)
    torch.export.save(torch.export.export(net.eval(), example, dynamic_shapes=shapes), target)

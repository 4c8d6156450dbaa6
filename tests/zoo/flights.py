"""The example's net, trained on the example's rows by the example's own functions."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bentos.contract import Contract, encode
from pipelines.defs.flight_delay.data import SEED, TRAINING_MONTHS
from pipelines.defs.flight_delay.net import train
from pipelines.defs.flight_delay.tables import FEATURES, LABEL, joined_flights, split
from pipelines.defs.flight_delay.train import learned_contract
from tests.zoo import Specimen, kept
from tests.zoo.training import archive

if TYPE_CHECKING:
    from pandas import DataFrame


def load(folder: Path) -> Specimen:
    """Will a flight from New York arrive late?"""
    return kept("flights", folder, make)


def make(source: Path) -> Specimen:
    """Train the net and write its archive."""
    parts, contract = splits()
    feeds = {name: encoded(contract, rows) for name, rows in parts.items()}
    net, _ = train(feeds["reference"], parts["reference"][LABEL].to_numpy())
    archive(net, contract, feeds["holdout"], source)
    labels = parts["holdout"][LABEL].to_numpy()
    return Specimen(
        "flights", "pt2", source, contract, feeds["calibration"], feeds["holdout"], labels, "auc", [1, 8, 64]
    )


@cache
def splits() -> tuple[dict[str, "DataFrame"], Contract]:
    """The example's reference, calibration and holdout rows, and the contract learned from the reference."""
    parts = split(joined_flights().query(f"month in {TRAINING_MONTHS}"), SEED)
    return parts, learned_contract(parts["reference"])


def encoded(contract: Contract, rows: "DataFrame") -> dict[str, np.ndarray]:
    return encode(contract, {name: rows[name].to_numpy() for name in FEATURES})

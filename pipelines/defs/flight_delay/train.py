"""The model of the example: trained on the reference rows and registered as a candidate for release."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import dagster as dg
import numpy as np
import pandas as pd

from bentos.contract import Contract, Field, encode
from pipelines.core.home import Home
from pipelines.defs.flight_delay.data import GROUP, data_path, splits
from pipelines.defs.flight_delay.net import train
from pipelines.defs.flight_delay.tables import CATEGORIES, FEATURES, LABEL, NUMERICS
from pipelines.gateways.registry import MlflowRegistry, Tensor

if TYPE_CHECKING:
    import torch

REGISTERED_NAME = "flight_delay"
ALIAS = "candidate"


@dg.asset(key_prefix=GROUP, group_name=GROUP, kinds={"pytorch", "mlflow"}, code_version="1", deps=[splits])
def trained_model(
    home: dg.ResourceParam[Home], registry: dg.ResourceParam[MlflowRegistry]
) -> dg.MaterializeResult:
    """A small net that predicts, before departure, the probability that a flight arrives late.

    Trained on the reference rows, seeded, and registered in MLflow as the next version of `flight_delay` in
    torch.export format with the alias `candidate`, which asks for its release. How strings become codes is
    registered with it, so that training, serving and scoring encode alike.
    """
    rows = pd.read_parquet(data_path(home, "reference"))
    contract = learned_contract(rows)
    feeds = encode(contract, {name: rows[name].to_numpy() for name in FEATURES})
    net, losses = train(feeds, rows[LABEL].to_numpy())
    version = register(registry, net, contract, feeds)
    registry.set_alias(REGISTERED_NAME, ALIAS, version)
    return dg.MaterializeResult(
        metadata={"version": version, "rows": len(rows), "loss_by_epoch": losses},
        data_version=dg.DataVersion(_digest(net, contract)),
    )


@dg.definitions
def training() -> dg.Definitions:
    """The example's training."""
    return dg.Definitions(assets=[trained_model])


def register(
    registry: MlflowRegistry, net: "torch.nn.Module", contract: Contract, feeds: Mapping[str, np.ndarray]
) -> str:
    """Register the net as the next version, with how its strings become codes; returns the version."""
    return registry.log_torch(
        net,
        REGISTERED_NAME,
        inputs=_tensors(contract.inputs),
        outputs=_tensors(contract.outputs),
        example=tuple(feeds[name][:2] for name in FEATURES),
        metadata=_encoding(contract),
    )


def learned_contract(rows: pd.DataFrame) -> Contract:
    """The inputs and the output, with the categories that occur in the rows; others are "any other"."""
    return Contract(
        inputs=(
            *(
                Field(name, "int64", categories=tuple(sorted(set(rows[name]))), open=True)
                for name in CATEGORIES
            ),
            Field("weekday", "int64"),
            *(Field(name, "float32") for name in NUMERICS),
        ),
        outputs=(Field("probability", "float32"),),
    )


def _encoding(contract: Contract) -> dict:
    """How a registered model says which strings become which codes."""
    return {
        "categories": {field.name: list(field.categories) for field in contract.inputs if field.categories},
        "open": [field.name for field in contract.inputs if field.open],
    }


def _tensors(fields: Iterable[Field]) -> tuple[Tensor, ...]:
    return tuple(Tensor(field.name, field.dtype, field.shape) for field in fields)


def _digest(net: "torch.nn.Module", contract: Contract) -> str:
    """The same for the same weights and encoding."""
    digest = hashlib.sha256(json.dumps(contract.to_dict()).encode())
    for weights in net.state_dict().values():
        digest.update(weights.numpy().tobytes())
    return digest.hexdigest()

"""From what was registered to one self-contained ONNX file, and the proof that both answer alike."""

import logging
import shutil
from pathlib import Path

import numpy as np

from bentos.contract import Contract
from pipelines.core.errors import ModelRefused
from pipelines.core.evaluate import Runs, Tensors, predict, row_count, take
from pipelines.core.verdict import Verdict, judge

OPSET = 20
PARITY_ROWS = (1, 2, 7)
"""Batch lengths that a batch dimension fixed by accident does not survive; all rows follow."""


def export_onnx(form: str, source: Path, target: Path, contract: Contract) -> None:
    """Write `source` as an ONNX file without external data; `form` is "pt2" or "onnx".

    Inputs and outputs get the contract's names. The batch dimension stays dynamic. Raises ModelRefused for
    a model that ONNX can't express.
    """
    if form == "onnx":
        shutil.copyfile(source, target)
    else:
        _export_pt2(source, target, contract)
    check_onnx(target)


def check_onnx(path: Path) -> None:
    """The full check of ONNX: structure, types and shapes."""
    import onnx

    onnx.checker.check_model(str(path), full_check=True)


def _export_pt2(source: Path, target: Path, contract: Contract) -> None:
    import torch

    # Says at every export that operators of torchvision, which nothing here uses, are not registered.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    program = torch.onnx.export(
        torch.export.load(source),
        (),
        input_names=[field.name for field in contract.inputs],
        output_names=[field.name for field in contract.outputs],
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    if program is None:
        raise ModelRefused(source.name, "exported", "torch.onnx wrote nothing", "export it to ONNX yourself")
    program.save(str(target), external_data=False)


def source_predictions(form: str, source: Path, contract: Contract, feeds: Tensors) -> dict[str, np.ndarray]:
    """What the registered model itself answers, one array an output."""
    if form == "onnx":
        from bentos.engine import Engine

        return Engine(source, contract).run(dict(feeds))
    import torch
    from torch.utils._pytree import tree_leaves

    tensors = [torch.from_numpy(np.ascontiguousarray(feeds[field.name])) for field in contract.inputs]
    with torch.inference_mode():
        answer = torch.export.load(source).module()(*tensors)
    answers = tree_leaves(answer)  # of a tensor, tuple or dict, in the order that the exporter takes
    return {field.name: tensor.numpy() for field, tensor in zip(contract.outputs, answers, strict=True)}


def judge_parity(
    engine: Runs, expected: dict[str, np.ndarray], feeds: Tensors, tolerance: float, subject: str
) -> Verdict:
    """Whether the ONNX file answers like its source at batch lengths 1, 2, 7 and all rows."""
    worst = dict.fromkeys(expected, 0.0)
    for rows in (*PARITY_ROWS, row_count(feeds)):
        answers = predict(engine, take(feeds, slice(0, rows)), rows)
        for name, answer in answers.items():
            furthest = np.abs(answer - expected[name][:rows]).max()
            worst[name] = float(np.maximum(worst[name], furthest))  # unlike max, keeps NaN
    failures = [
        f"{name} differs from the source model by up to {difference:.2g}, more than {tolerance:g}"
        for name, difference in worst.items()
        if not difference <= tolerance
    ]
    praise = f"differs from the source model by at most {max(worst.values()):.2g}"
    return judge("parity", subject, failures, praise, rows=row_count(feeds), **worst)

"""What a rung is built from."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipelines.core.evaluate import Tensors


@dataclass(frozen=True)
class Recipe:
    """What a rung is built from.

    source        the exported ONNX file; it must not change
    target        where the rung's file goes, in a folder that is there
    calibration   starts a stream of batches of encoded calibration rows, capped; each call starts it anew
    objection     why a file moves answers too far from fp32's on the calibration rows; None when it does not
    """

    source: Path
    target: Path
    calibration: Callable[[], Iterator[Tensors]]
    objection: Callable[[Path], str | None]

"""The rungs of the precision ladder: each a function from the exported ONNX file to another ONNX file."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from pipelines.core.evaluate import Tensors, row_count, take

QUANTIZED_OPS = ["MatMul", "Gemm", "Conv"]
"""Only where the arithmetic is; quantizing every operator ruins encoders (cosine .30 on MiniLM)."""

CALIBRATION_BATCH_ROWS = 256


def build_fp32(source: Path, target: Path, calibration: Tensors) -> None:
    """The exported file as it is: the rung that all others are compared with."""
    shutil.copyfile(source, target)


def build_int8_dynamic(source: Path, target: Path, calibration: Tensors) -> None:
    """INT8 weights; the scale of activations is taken from each batch as it runs."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _prepared(source, target) as prepared:
        quantize_dynamic(prepared, target, QUANTIZED_OPS, per_channel=True, weight_type=QuantType.QInt8)


def build_int8_static(source: Path, target: Path, calibration: Tensors) -> None:
    """INT8 weights, UINT8 activations with scales set once, from the calibration rows."""
    from onnxruntime.quantization import QuantType, quantize_static

    with _prepared(source, target) as prepared:
        quantize_static(
            prepared,
            target,
            _reader(calibration),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=QUANTIZED_OPS,
        )


BUILDERS: dict[str, Callable[[Path, Path, Tensors], None]] = {
    "fp32": build_fp32,
    "int8_dynamic": build_int8_dynamic,
    "int8_static": build_int8_static,
}


@contextmanager
def _prepared(source: Path, beside: Path) -> Iterator[Path]:
    """The file with fresh shapes: quantization fails on those that an exporter left behind."""
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    model = onnx.load(source)
    del model.graph.value_info[:]
    with TemporaryDirectory(dir=beside.parent) as folder:
        cleared, prepared = Path(folder) / "cleared.onnx", Path(folder) / "prepared.onnx"
        onnx.save(model, cleared)
        quant_pre_process(cleared, prepared, skip_symbolic_shape=True)
        yield prepared


def _reader(calibration: Tensors):
    from onnxruntime.quantization import CalibrationDataReader

    class Batches(CalibrationDataReader):
        """The calibration rows, a batch at a time."""

        def __init__(self) -> None:
            self.batches: Iterator[dict] = (
                take(calibration, slice(start, start + CALIBRATION_BATCH_ROWS))
                for start in range(0, row_count(calibration), CALIBRATION_BATCH_ROWS)
            )

        def get_next(self):
            return next(self.batches, None)

    return Batches()

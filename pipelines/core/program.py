"""A registered torch.export archive: what it takes and answers, by the contract's names, and running it.

The program's own names are those of its forward: parameters, keyword arguments, keys of dicts. Where they are
exactly the contract's, names decide what is what; else it is the order.
"""

import logging
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from bentos.contract import Contract, Field
from pipelines.core.errors import ModelRefused
from pipelines.core.evaluate import Tensors
from pipelines.core.refusals import EXPORT_YOURSELF, first_line, refused

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.nn import Module


class ShapeRefused(Exception):
    """The program was exported for other lengths than it was given."""


class Program:
    """The archive at `source`, under the names of `contract`.

    exported           as torch loaded it
    inputs, outputs    the contract's names, in the program's order

    Raises ModelRefused for an archive that torch can't read or whose inputs or outputs are not as many as the
    contract's.
    """

    def __init__(self, source: Path, contract: Contract) -> None:
        self.exported = _loaded(source)
        signature, spec = self.exported.graph_signature, self.exported.call_spec
        self._tree: Any = spec.in_spec
        self._given: list[Any] = [
            given.arg for given in signature.input_specs if given.kind.name == "USER_INPUT"
        ]
        answers = [answer.arg for answer in signature.output_specs if answer.kind.name == "USER_OUTPUT"]
        self._answered = [not is_constant(answer) for answer in answers]
        takes = _names(spec.in_spec, self._given, [given.name for given in self._given])
        returns = _names(spec.out_spec, answers, [f"number {place}" for place in range(len(answers))])
        self.inputs = _matched("input", source, takes, contract.inputs)
        self.outputs = _matched("output", source, returns, contract.outputs)

    @cached_property
    def _module(self) -> "Module":
        return self.exported.module()

    @property
    def weight_bytes(self) -> int:
        """Of all parameters, buffers and constants; what is shared counts once."""
        import torch

        held = [*self.exported.state_dict.values(), *self.exported.constants.values()]
        return sum({t.data_ptr(): t.nbytes for t in held if isinstance(t, torch.Tensor)}.values())

    def run(self, feeds: Tensors) -> dict[str, np.ndarray]:
        """What the program answers. Raises ShapeRefused, and whatever its operators raise."""
        import torch
        from torch.utils._pytree import tree_leaves, tree_unflatten

        tensors = (torch.from_numpy(np.ascontiguousarray(feeds[name])) for name in self.inputs)
        leaves = [given.value if is_constant(given) else next(tensors) for given in self._given]
        args, kwargs = tree_unflatten(leaves, self._tree)
        try:
            with torch.inference_mode():
                answers = tree_leaves(self._module(*args, **kwargs))
        except AssertionError as guard:
            raise ShapeRefused(str(guard)) from guard
        kept = [answer for answer, wanted in zip(answers, self._answered, strict=True) if wanted]
        return {name: np.asarray(answer) for name, answer in zip(self.outputs, kept, strict=True)}


def place_of(stack_trace: str) -> str | None:
    """The innermost file:line of a stack trace that is not PyTorch's own; None where it names no line."""
    frames = re.findall(r'File "([^"]+)", line (\d+)', stack_trace)
    own = [frame for frame in frames if "-packages/torch/" not in frame[0]]
    return ":".join((own or frames)[-1]) if frames else None


def _loaded(source: Path) -> "ExportedProgram":
    """The archive. What stops torch is only logged by it, with a traceback: here it becomes the reason."""
    import torch

    heard: list[logging.LogRecord] = []
    log = logging.getLogger("torch.export")
    log.addFilter(hear := lambda record: heard.append(record) or False)
    try:
        return torch.export.load(source)
    except (RuntimeError, ValueError, KeyError, AttributeError, BadZipFile) as error:
        causes = [record.exc_info[1] for record in heard if record.exc_info]
        raise _unreadable(source, next(filter(None, causes), error)) from error
    finally:
        log.removeFilter(hear)


def _unreadable(source: Path, error: BaseException) -> ModelRefused:
    if operator := re.search(r"failed to resolve torch\.ops\.([\w.]+)", str(error)):
        return refused(
            source,
            f"its operator {operator[1]}, used at {place_of(str(error))}, is not one of PyTorch's own",
            f"replace it by PyTorch's operators, {EXPORT_YOURSELF}",
        )
    reason = f"torch.export.load can't read it ({first_line(error)})"
    if "pytree" in reason:
        return refused(
            source, reason, f"take and return tensors in tuples, lists and dicts, {EXPORT_YOURSELF}"
        )
    return refused(source, reason, "log it again with mlflow.pytorch.log_model")


def is_constant(argument) -> bool:
    """Arguments that were Python values at export, None among them, are no tensors of the model."""
    from torch.export.graph_signature import ConstantArgument

    return isinstance(argument, ConstantArgument)


def _names(tree, arguments: Sequence, otherwise: Sequence[str]) -> list[str]:
    """The program's own name of each tensor: the key it has in a dict or as an argument, or `otherwise`."""
    from torch.utils._pytree import tree_leaves_with_path, tree_unflatten

    paths = [path for path, _ in tree_leaves_with_path(tree_unflatten(range(len(arguments)), tree))]
    return [
        str(getattr(path[-1], "key", name)) if path else name
        for path, argument, name in zip(paths, arguments, otherwise, strict=True)
        if not is_constant(argument)
    ]


def _matched(kind: str, source: Path, own: list[str], fields: Sequence[Field]) -> list[str]:
    names = [field.name for field in fields]
    if len(own) != len(names):
        raise refused(
            source,
            f"it has {len(own)} {kind}s where its signature has {len(names)} ({', '.join(names)})",
            f"log it again with a signature that names every {kind}",
        )
    return own if sorted(own) == sorted(names) else names

"""Papermill: a parameterized notebook run once, kept executed and as HTML that reads offline."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.core.errors import NotebookRefused
from pipelines.gateways.tables import replacing


@dataclass(frozen=True)
class Report:
    """An executed notebook and its HTML, side by side."""

    notebook: Path
    html: Path


class Notebooks(ABC):
    """The reports of the project, by name."""

    @abstractmethod
    def run(self, name: str, parameters: Mapping[str, object], into: Path) -> Report:
        """Execute notebooks/`name`.ipynb into the folder `into`; half-written files never stay.
        Raises NotebookRefused for an unknown or missing parameter, or a failing cell."""


class Papermill(Notebooks):
    """Notebooks of one folder, run by the interpreter that runs this.

    A parameter must be given unless its comment in the notebook begins with "optional".
    """

    def __init__(self, folder: Path, cell_timeout_s: int = 300) -> None:
        self.folder, self.cell_timeout_s = folder, cell_timeout_s

    def run(self, name: str, parameters: Mapping[str, object], into: Path) -> Report:
        source = self.folder / f"{name}.ipynb"
        if not source.is_file():
            raise NotebookRefused(name, f"there is no {source}")
        executed = self._execute(name, source, _checked(name, source, parameters))
        report = Report(into / f"{name}.ipynb", into / f"{name}.html")
        for path, text in ((report.notebook, _notebook_text(executed)), (report.html, _html(name, executed))):
            with replacing(path) as temp:
                temp.write_text(text)
        return report

    def _execute(self, name: str, source: Path, values: Mapping[str, object]):
        from jupyter_client.kernelspec import NATIVE_KERNEL_NAME
        from nbclient.exceptions import CellTimeoutError
        from papermill import PapermillExecutionError, execute_notebook

        try:
            return execute_notebook(
                source,
                None,
                dict(values),
                kernel_name=NATIVE_KERNEL_NAME,
                kernel_manager_class=_this_interpreter(),
                shutdown_kernel="immediate",  # asking politely can take it 4 s, and it has nothing to save
                execution_timeout=self.cell_timeout_s,
                progress_bar=False,
            )
        except PapermillExecutionError as error:
            first_line = error.evalue.partition("\n")[0]
            reason = f"cell {error.exec_count} raised {error.ename}: {first_line}"
            raise NotebookRefused(name, reason) from error
        except CellTimeoutError as error:
            raise NotebookRefused(name, f"a cell took more than {self.cell_timeout_s} seconds") from error
        except RuntimeError as error:  # nbclient's and jupyter_client's, for a kernel that died or never came
            raise NotebookRefused(name, f"its kernel failed: {error}") from error


def _checked(name: str, source: Path, parameters: Mapping[str, object]) -> dict[str, object]:
    """The parameters as the notebook takes them. Papermill itself only logs an unknown one."""
    from papermill import inspect_notebook

    known = inspect_notebook(source)
    for parameter, value in parameters.items():
        if parameter not in known:
            raise NotebookRefused(name, f"it knows no parameter {parameter!r}, only {', '.join(known)}")
        if not isinstance(value, str | int | float | Path):
            kind = type(value).__name__
            raise NotebookRefused(name, f"{parameter!r} is a {kind}; pass a path, a string or a number")
    for parameter, details in known.items():
        if parameter not in parameters and not str(details["help"]).startswith("optional"):
            raise NotebookRefused(name, f"the parameter {parameter!r} is missing ({details['help']})")
    return {name: str(value) if isinstance(value, Path) else value for name, value in parameters.items()}


def _this_interpreter() -> type:
    """A kernel manager that knows one kernel, ipykernel of sys.executable, whatever kernels the user has, and
    encrypts what is said to it where it can."""
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from traitlets import default

    class ThisInterpreter(AsyncKernelManager):
        @default("kernel_spec_manager")
        def _only_native(self) -> KernelSpecManager:
            return KernelSpecManager(kernel_dirs=[])

        @default("transport_encryption")
        def _if_possible(self) -> str:
            return "auto"

    return ThisInterpreter


def _notebook_text(executed) -> str:
    import nbformat

    return nbformat.writes(executed)


def _html(name: str, executed) -> str:
    """A page to read, without the code; the executed notebook has it. Nothing is loaded from elsewhere."""
    from nbconvert import HTMLExporter

    libraries = ("mathjax", "require_js", "jquery", "mermaid_js", "mermaid_layout_elk_js")
    nowhere = {f"{library}_url": "" for library in libraries}
    exporter = HTMLExporter(
        exclude_input=True, exclude_input_prompt=True, exclude_output_prompt=True, **nowhere
    )
    text, _ = exporter.from_notebook_node(executed, resources={"metadata": {"name": name}})
    return text

"""Triton's own server, from the wheel of nvidia-pytriton: the binary, its Python backend and, for each
version of Python, a stub that runs the model's code. The wheel's Python layer is not used."""

import sysconfig
from collections.abc import Mapping
from pathlib import Path

from pipelines.gateways.processes import Command
from tests.benchmarks.harness.peers import Net, Peer
from tests.benchmarks.serving.peers import oip
from tests.benchmarks.serving.peers.plain import plain

CONFIG = """
backend: "python"
max_batch_size: {rows}
input [{{ name: "x", data_type: TYPE_FP32, dims: [{width}] }}]
output [{{ name: "y", data_type: TYPE_FP32, dims: [1], reshape: {{ shape: [] }} }}]
instance_group [{{ kind: KIND_CPU, count: 1 }}]
dynamic_batching {{ max_queue_delay_microseconds: 0 }}
"""
OPTIONS = {
    "http-address": "127.0.0.1",
    "allow-grpc": "false",
    "allow-metrics": "false",
    "http-thread-count": "1",
    "log-info": "false",
}


class Triton(Peer):
    def command(self, net: Net, port: int, scratch: Path) -> Command:
        packages = self._packages()
        wheel = packages / "pytriton" / "tritonserver"
        folders = {"model-repository": scratch / "models", "backend-directory": scratch / "backends"}
        self._lay_out_model(net, folders["model-repository"])
        self._lay_out_backend(wheel, folders["backend-directory"] / "python")
        given = {**OPTIONS, "http-port": port, **folders}
        libraries = f"{sysconfig.get_config_var('LIBDIR')}:{packages / 'nvidia_pytriton.libs'}"
        env = {
            **self.env(net, port, scratch),
            "LD_LIBRARY_PATH": libraries,
            "PYTHONHOME": sysconfig.get_config_var("prefix"),
            "PYTHONPATH": f"{self.kit}:{packages}",
        }
        argv = (str(wheel / "bin" / "tritonserver"), *(f"--{name}={value}" for name, value in given.items()))
        return Command(argv, env)

    def path(self, net: Net) -> str:
        return oip.path(net)

    def body(self, net: Net, row: Mapping) -> bytes:
        return oip.body(net, row)

    def value(self, net: Net, answer: bytes) -> float:
        return oip.value(answer)

    def _packages(self) -> Path:
        return next(self.python().parents[1].glob("lib/python3*/site-packages"))

    def _lay_out_model(self, net: Net, repository: Path) -> None:
        (version := repository / net.name / "1").mkdir(parents=True)
        (version / "model.py").symlink_to(self.folder / "server.py")
        width = net.contract.inputs[0].shape[1]
        (version.parent / "config.pbtxt").write_text(CONFIG.format(rows=net.batch_rows, width=width))

    def _lay_out_backend(self, wheel: Path, folder: Path) -> None:
        """The backend finds the stub only beside itself."""
        folder.mkdir(parents=True)
        stub = wheel / "python_backend_stubs" / sysconfig.get_python_version() / "triton_python_backend_stub"
        for file in [*(wheel / "backends" / "python").iterdir(), stub]:
            (folder / file.name).symlink_to(file)


PEER = plain("triton", Triton)

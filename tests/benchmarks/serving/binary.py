"""32 rows of 768 numbers as bytes, beside the same as JSON: what a request costs us in CPU time."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from tests.benchmarks.harness.load import LoadFailed, closed_loop
from tests.benchmarks.harness.peers import JSON, Net, serving
from tests.benchmarks.harness.report import show
from tests.benchmarks.harness.rounds import Effort, Figures, take_turns
from tests.benchmarks.serving import nets
from tests.benchmarks.serving.peers import peer

LIMIT = 0.10
"""The binary request costs at most so many times what each of the JSON requests does."""
ROWS = 32


@dataclass(frozen=True)
class Way:
    """One way to ask for the same. `read` gives the numbers of an answer."""

    path: str
    headers: dict[str, str]
    body: bytes
    read: Callable[[bytes], np.ndarray]


def measure(effort: Effort, names: Sequence[str] = ()) -> dict:
    """CPU time per request of each way, and the ratios of the binary one's to the others'."""
    net = nets.wide()
    found = ways(net)
    taken = take_turns(
        {name: partial(_one, way, net, effort.seconds) for name, way in found.items()}, effort.rounds
    )
    told = taken.told()
    ratios = {name: taken.ratio("v2_binary", name, "cpu_us") for name in found if name != "v2_binary"}
    show(
        f"{ROWS} x 768 numbers",
        [
            {
                "way": name,
                "body bytes": len(way.body),
                "CPU µs a request": told[name].get("cpu_us", {}).get("median", "–"),
                "binary ÷ this": (ratios.get(name) or {}).get("median", ""),
                "limit": "" if name == "v2_binary" else LIMIT,
            }
            for name, way in found.items()
        ],
    )
    return {"ways": told, "binary_to": ratios}


def ways(net: Net) -> dict[str, Way]:
    """/predict, and the Open Inference Protocol with JSON and with its binary extension."""
    rows = [net.rows[at % len(net.rows)] for at in range(ROWS)]
    values = np.array([row["x"] for row in rows], np.float32)
    tensor = {"name": "x", "shape": list(values.shape), "datatype": "FP32"}
    path = f"/v2/models/{net.name}/infer"
    listed = {"inputs": [{**tensor, "data": [number for row in rows for number in row["x"]]}]}
    sized = {**tensor, "parameters": {"binary_data_size": values.nbytes}}
    head = json.dumps({"inputs": [sized], "parameters": {"binary_data_output": True}}).encode()
    binary = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(head))}
    return {
        "predict": Way("/predict", JSON, json.dumps({"rows": rows}).encode(), _objects),
        "v2_json": Way(path, JSON, json.dumps(listed).encode(), _lists),
        "v2_binary": Way(path, binary, head + values.tobytes(), _bytes),
    }


def _objects(answer: bytes) -> np.ndarray:
    return np.array([row["y"] for row in json.loads(answer)])


def _lists(answer: bytes) -> np.ndarray:
    return np.array(json.loads(answer)["outputs"][0]["data"])


def _bytes(answer: bytes) -> np.ndarray:
    return np.frombuffer(answer[-4 * ROWS :], np.float32)


def _one(way: Way, net: Net, seconds: float) -> Figures:
    """A fresh server, which answers this way rightly, loaded over 8 connections."""
    with serving(peer("ours"), net) as served:
        url = served.at(way.path)
        status, answer = served.ask(way.path, way.body, way.headers)
        if status != 200 or not np.allclose(way.read(answer)[: len(net.expected)], net.expected, atol=1e-3):
            raise LoadFailed(f"{way.path} answers {status} {answer[:300]!r}.")
        load = partial(closed_loop, url, [way.body], way.headers, folder=served.scratch, connections=8)
        load(seconds=1)
        before = served.tree.cpu_seconds()
        found = load(seconds=seconds)
        if found.failed or not found.ok:
            raise LoadFailed(f"{way.path} failed {found.failed} of {found.ok + found.failed} requests.")
        return {"cpu_us": (served.tree.cpu_seconds() - before) / found.ok * 1e6, "rps": found.rps}

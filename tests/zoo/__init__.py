"""Real models that differ in kind, made in seconds: what tests and benchmarks judge the ladder on.

    flights   the example's own net: embeddings and two layers, 20k weights, 14 inputs
    mlp       three layers of 1024 on the same flights as one vector: all of it matrix products
    digits    a CNN on scikit-learn's scanned digits: ten classes
    minilm    all-MiniLM-L6-v2 with a sentiment head on human-rated tweets: a transformer with two outputs

Each is a module with `load(folder)`. All are seeded and trained on one thread, so equal versions of the
libraries give equal weights. A specimen is kept in the folder, so that a second use costs nothing, and is
made again when anything that it is made from has changed.
"""

import fcntl
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np

from bentos.contract import Contract

NAMES = ("flights", "mlp", "digits", "minilm")
PROJECT = Path(__file__).parents[2]
MADE_FROM = ("constraints.txt", "tests/zoo/*.*", "pipelines/defs/flight_delay/*.py")
ARCHIVE, ARRAYS, FACTS = "model.pt2", "arrays.npz", "facts.json"
TOLD = ("form", "metric", "batch_sizes")


@dataclass(frozen=True)
class Specimen:
    """A trained model with the rows to judge it on.

    form, source   "pt2": the path of an archive of torch.export, every -1 of the contract's inputs dynamic
    calibration    encoded rows, one array an input, that the model was not trained on
    holdout        others of the same kind; `labels` are their truth, as `metric` wants it
    batch_sizes    where its speed is worth measuring, in rows
    """

    name: str
    form: str
    source: Path
    contract: Contract
    calibration: dict[str, np.ndarray]
    holdout: dict[str, np.ndarray]
    labels: np.ndarray
    metric: str
    batch_sizes: list[int]


def zoo(folder: Path) -> dict[str, Specimen]:
    """All specimens, kept in the folder."""
    return {name: load(name, folder) for name in NAMES}


def load(name: str, folder: Path) -> Specimen:
    """One specimen of NAMES, kept in the folder."""
    return import_module(f"{__name__}.{name}").load(folder)


def kept(name: str, folder: Path, make: Callable[[Path], Specimen]) -> Specimen:
    """The specimen that `make(source)` makes, whose archive it writes to `source`; or the one made before.

    Others who want the same one at the same time wait. The facts are written last: what lacks them, or was
    made from something else, is made again.
    """
    home = folder / name
    home.mkdir(parents=True, exist_ok=True)
    facts, made_from = home / FACTS, _made_from()
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not facts.exists() or json.loads(facts.read_text())["made_from"] != made_from:
            facts.unlink(missing_ok=True)
            _save(make(home / ARCHIVE), home, made_from)
        return _read(name, home)


def _made_from() -> str:
    """One digest of the versions of the libraries, the code here and the example's code."""
    digest = hashlib.sha256()
    for pattern in MADE_FROM:
        for path in sorted(PROJECT.glob(pattern)):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _save(made: Specimen, home: Path, made_from: str) -> None:
    arrays = {
        f"{part}/{name}": rows
        for part in ("calibration", "holdout")
        for name, rows in getattr(made, part).items()
    }
    np.savez(home / ARRAYS, labels=made.labels, **arrays)
    facts = {key: getattr(made, key) for key in TOLD}
    (home / FACTS).write_text(
        json.dumps({**facts, "contract": made.contract.to_dict(), "made_from": made_from})
    )


def _read(name: str, home: Path) -> Specimen:
    facts = json.loads((home / FACTS).read_text())
    with np.load(home / ARRAYS) as arrays:
        parts = {
            part: {key.split("/")[1]: arrays[key] for key in arrays.files if key.startswith(f"{part}/")}
            for part in ("calibration", "holdout")
        }
        labels = arrays["labels"]
    told = {key: facts[key] for key in TOLD}
    contract = Contract.from_dict(facts["contract"])
    return Specimen(name=name, source=home / ARCHIVE, contract=contract, labels=labels, **parts, **told)

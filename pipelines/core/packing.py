"""What goes into a bento: its manifest and identity, and whether the built bento answers like its model."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from bentos.contract import Contract, Field
from bentos.manifest import Manifest, Plan
from pipelines.core.rows import digest_of
from pipelines.core.spec import ServingSpec
from pipelines.core.verdict import Verdict, judge

Ask = Callable[[Sequence[Mapping]], list[dict]]
"""Sends rows to a service and returns its answers, one {output: value} a row."""

REQUEST_ROWS = (1, 7, 64)
"""Rows of the requests that the built bento is asked, in turn."""


def source_digest(project: Path) -> str:
    """One digest of the service's code and pinned packages: a change makes another release."""
    files = [project / "bentofile.yaml", *sorted((project / "bentos").rglob("*.py"))]
    files.append(project / "bentos" / "requirements.txt")
    return digest_of(*(hashlib.sha256(path.read_bytes()).hexdigest() for path in files))


def make_manifest(
    name: str,
    version: str,
    rung: str,
    model_sha256: str,
    contract: Contract,
    serving: ServingSpec,
    source: str,
    provenance: Mapping[str, str],
) -> Manifest:
    """The manifest, with a release id that changes when the model, contract, plan or service code does."""
    plan = Plan(
        max_batch_size=serving.max_batch_size,
        max_latency_ms=serving.max_latency_ms,
        threads=serving.threads,
        device=serving.device,
    )
    parts = (name, version, model_sha256, json.dumps(contract.to_dict()), repr(plan), source)
    release_id = f"v{version}-{digest_of(*parts)[:10]}"
    return Manifest(
        name, version, release_id, rung, model_sha256, contract, plan, provenance=dict(provenance)
    )


def judge_answers(
    ask: Ask,
    rows: Sequence[Mapping],
    expected: Mapping[str, np.ndarray],
    contract: Contract,
    tolerance: float,
    subject: str,
) -> Verdict:
    """Whether a service answers `rows` like the ONNX file did all at once, in requests of several sizes."""
    answers: list[dict] = []
    while len(answers) < len(rows):
        size = REQUEST_ROWS[len(answers) % len(REQUEST_ROWS)]
        answers += ask(rows[len(answers) : len(answers) + size])
    worst = {
        field.name: _furthest([answer[field.name] for answer in answers], expected[field.name], field)
        for field in contract.outputs
    }
    failures = [
        f"{name} differs from the ONNX file by up to {difference:.2g}, more than {tolerance:g}"
        for name, difference in worst.items()
        if not difference <= tolerance
    ]
    praise = f"{len(rows)} rows differ from the ONNX file by at most {max(worst.values()):.2g}"
    numbers = {name: by if np.isfinite(by) else None for name, by in worst.items()} | {"rows": len(rows)}
    return replace(judge("answers_like_onnx", subject, failures, praise), numbers=numbers)


def _furthest(answers: Sequence, expected: np.ndarray, field: Field) -> float:
    """The largest difference, infinite where shapes differ. Along a dynamic dimension an answer is as long as
    its request, `expected` as the longest row of all: what only one of them has is padding."""
    furthest = []
    for answer, values in zip(answers, expected, strict=True):
        found = np.array(answer, np.float64)
        sizes = zip(found.shape, field.shape[1:], strict=False)
        values = values[tuple(slice(size if wanted == -1 else None) for size, wanted in sizes)]
        furthest.append(np.abs(found - values).max(initial=0) if found.shape == values.shape else np.inf)
    return float(np.max(furthest))

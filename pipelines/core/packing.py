"""What goes into a bento: its manifest and identity, and whether the built bento answers like its model."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from bentos.contract import Contract, Field
from bentos.manifest import Cost, Manifest, Plan, Slo
from pipelines.core.contracts import refuse_default
from pipelines.core.rows import digest_of
from pipelines.core.spec import ServingSpec
from pipelines.core.speed import Speed
from pipelines.core.verdict import Verdict, judge

Ask = Callable[[Sequence[Mapping]], list[dict]]
"""Sends rows to a service and returns its answers, one {output: value} a row."""

REQUEST_ROWS = (1, 7, 64)
"""Rows of the requests that the built bento is asked, in turn."""

SHORTEST_BUCKET = 8
"""Rows of up to this length share a bucket: below it the length hardly matters."""


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
    files: Mapping[str, str] = MappingProxyType({}),
    longest: int = 0,
    speeds: Mapping[int, Speed] = MappingProxyType({}),
) -> Manifest:
    """The manifest. `files` are the digests of what is packed beside the model, `longest` is the longest row
    of the reference along dimensions of any length, `speeds` are those of the rung.

    The release id changes with all that is packed but `speeds` and `provenance`: noise in a measurement makes
    no other release.
    """
    plan, slo = make_plan(serving, contract, longest), Slo(**_alike(serving, Slo))
    refuse_default(contract, serving.default_answer)
    parts = json.dumps([contract.to_dict(), asdict(plan), asdict(slo), dict(files)], sort_keys=True)
    release_id = f"v{version}-{digest_of(name, version, model_sha256, parts, source)[:10]}"
    measured = replace(plan, costs=costs_of(speeds))
    return Manifest(
        name, version, release_id, rung, model_sha256, contract, measured, slo, dict(files), dict(provenance)
    )


def make_plan(serving: ServingSpec, contract: Contract, longest: int) -> Plan:
    """What the settings say of admission and batching; costs are left to what was measured."""
    lengths = length_buckets(longest, contract) if serving.lengths is None else serving.lengths
    most_bytes = round(serving.max_body_megabytes * 2**20)
    return Plan.from_dict({**_alike(serving, Plan), "lengths": lengths, "max_body_bytes": most_bytes})


def length_buckets(longest: int, contract: Contract) -> tuple[int, ...]:
    """The powers of two up to the first that holds the longest row; the last ends where the contract does."""
    if not longest:
        return ()
    limits = [field.max_length for field in contract.inputs if field.any_length]
    limits.append(contract.text.max_tokens if contract.text else None)
    most = min((limit for limit in limits if limit), default=math.inf)
    enough = max(SHORTEST_BUCKET, 2 ** (longest - 1).bit_length())
    powers = (2**n for n in range(SHORTEST_BUCKET.bit_length() - 1, enough.bit_length()))
    return tuple(sorted({int(min(power, most)) for power in powers}))


def costs_of(speeds: Mapping[int, Speed]) -> tuple[Cost, ...]:
    """What batches of the timed sizes take, in ms."""
    return tuple((rows, speed.length, speed.latency_us / 1000) for rows, speed in sorted(speeds.items()))


def _alike(serving: ServingSpec, kind: type[Plan] | type[Slo]) -> dict[str, Any]:
    """The settings that the manifest has by the same name."""
    return serving.model_dump(include={field.name for field in fields(kind)})


def judge_answers(
    ask: Ask,
    rows: Sequence[Mapping],
    expected: Mapping[str, np.ndarray],
    contract: Contract,
    tolerance: float,
    subject: str,
    max_request_rows: int = max(REQUEST_ROWS),
) -> Verdict:
    """Whether a service answers `rows` like the ONNX file did all at once, in requests of several sizes."""
    answers: list[dict] = []
    while len(answers) < len(rows):
        size = min(max_request_rows, REQUEST_ROWS[len(answers) % len(REQUEST_ROWS)])
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

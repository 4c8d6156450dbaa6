"""What goes into a bento: its manifest and identity, and whether the built bento answers like its model."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from bentos.contract import Contract, Field
from bentos.manifest import Manifest, Plan, Slo
from pipelines.core.contracts import refuse_default
from pipelines.core.rows import digest_of
from pipelines.core.spec import ServingSpec
from pipelines.core.verdict import Verdict, judge

Ask = Callable[[Sequence[Mapping]], list[dict]]
"""Sends rows to a service and returns its answers, one {output: value} a row."""

REQUEST_ROWS = (1, 7, 64)
"""Rows of the requests that the built bento is asked, in turn."""

DERIVED = ("workers", "threads", "replicas", "max_batch_size", "max_queue_rows", "max_latency_ms")
"""What the settings may leave to be derived from what was measured."""

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
    plan: Plan,
    slo: Slo,
    source: str,
    provenance: Mapping[str, str],
    files: Mapping[str, str] = MappingProxyType({}),
) -> Manifest:
    """The manifest. `files` are the digests of what is packed beside the model.

    The release id changes with all that is packed but the plan's costs and `provenance`: noise in a
    measurement makes no other release.
    """
    refuse_default(contract, plan.default_answer)
    parts = json.dumps([contract.to_dict(), asdict(slo), dict(files)], sort_keys=True)
    release_id = f"v{version}-{digest_of(name, version, model_sha256, parts, plan_digest(plan), source)[:10]}"
    return Manifest(
        name, version, release_id, rung, model_sha256, contract, plan, slo, dict(files), dict(provenance)
    )


def plan_digest(plan: Plan) -> str:
    """Changes with the plan, but not with what was measured."""
    return digest_of(json.dumps(asdict(replace(plan, costs=())), sort_keys=True))


def wished_plan(serving: ServingSpec, contract: Contract, longest: int) -> tuple[Plan, frozenset[str]]:
    """The plan as far as the settings say it, and the names among DERIVED that they fix; what they leave open
    has the plan's defaults. `longest` is the longest row of the reference along dimensions of any length."""
    said = serving.model_dump(include={field.name for field in fields(Plan)})
    lengths = length_buckets(longest, contract) if serving.lengths is None else serving.lengths
    given = {name: value for name, value in said.items() if value is not None or name not in DERIVED}
    most_bytes = round(serving.max_body_megabytes * 2**20)
    plan = Plan.from_dict({**given, "lengths": lengths, "max_body_bytes": most_bytes})
    return plan, frozenset(DERIVED) & given.keys()


def slo_of(serving: ServingSpec) -> Slo:
    """What the settings promise."""
    return Slo(**serving.model_dump(include={field.name for field in fields(Slo)}))


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

"""What is known of a container image, what it may use of a machine, and whether it may serve.

An image is judged by what lies in it, read from outside: none of its own programs is asked.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from bentos.manifest import Plan
from pipelines.core.verdict import Verdict, judge

IMAGE_IS_SOUND = "image_is_sound"
FORBIDDEN = ("dagster", "jupyter-server", "mlflow", "notebook", "pandas", "papermill", "torch")
"""What makes models and judges them has no place where they are served: more to attack, more to start."""
HEAD_ROOM, LEAST_MEMORY_MIB = 2, 512
MIB = 2**20


@dataclass(frozen=True)
class Resources:
    """What a container may use at most: CPUs, memory in units of 2**20 bytes, processes and threads."""

    cpus: int
    memory_mib: int
    pids: int


@dataclass(frozen=True)
class Facts:
    """What an image is, as its engine says, and what it holds.

    user                  its name or number as the image has it; empty is root
    uid                   the number of that user
    python_packages       name → version; system_packages the same of Debian's
    model_sha256          the digest of model.onnx inside, empty where there is not exactly one;
                          manifest_sha256 likewise
    setuid_files          programs that run as another user than who starts them
    """

    digest: str
    size_bytes: int
    user: str
    uid: int
    entrypoint: tuple[str, ...]
    python_packages: Mapping[str, str]
    system_packages: Mapping[str, str]
    model_sha256: str
    manifest_sha256: str
    setuid_files: tuple[str, ...]


def resources_of(plan: Plan, used_mib: float, memory_megabytes: float | None = None) -> Resources:
    """What a service of this plan needs in a container.

    CPUs are those of its sessions and one for the event loop of each worker, for a quota stops all threads of
    a service until the next tenth of a second. `used_mib` is the most that its processes had in the load
    test; twice that, rounded up to a power of two, is the limit unless `memory_megabytes` says otherwise.
    """
    threads = plan.replicas * plan.threads
    needed = max(HEAD_ROOM * used_mib, LEAST_MEMORY_MIB)
    memory_mib = math.ceil(memory_megabytes or 2 ** math.ceil(math.log2(needed)))
    return Resources(plan.workers * (threads + 1), memory_mib, 128 + plan.workers * (128 + threads))


def judge_image(
    facts: Facts, reference: str, model_sha256: str, bill: Mapping, most_megabytes: float
) -> Verdict:
    """Whether the image may serve. `reference` is its name@sha256:…, `model_sha256` the digest of the model
    that was judged, `bill` its bill of materials (CycloneDX), `most_megabytes` in units of 2**20 bytes."""
    size_mib = facts.size_bytes / MIB
    listed = {canonical(component["name"]) for component in bill.get("components", ())}
    unlisted = sorted({*map(canonical, [*facts.python_packages, *facts.system_packages])} - listed)
    present = sorted(set(FORBIDDEN) & {*map(canonical, facts.python_packages)})
    faults = {
        "it runs as root, so set a USER": facts.uid == 0,
        f"it has {size_mib:,.0f} MiB, more than serving.max_image_megabytes, {most_megabytes:,.0f}": (
            size_mib > most_megabytes
        ),
        f"it holds {', '.join(present)}, which nothing that serves needs": bool(present),
        "the model inside is not the one that was judged": facts.model_sha256 != model_sha256,
        "it has no bill of materials": not listed,
        f"its bill of materials lacks {', '.join(unlisted[:3])}": bool(listed and unlisted),
    }
    return judge(
        IMAGE_IS_SOUND,
        reference,
        [sentence for sentence, is_so in faults.items() if is_so],
        f"it runs as {facts.user} ({facts.uid}), has {size_mib:,.0f} MiB and holds the model that was "
        f"judged, with {len(facts.python_packages)} Python and {len(facts.system_packages)} Debian packages",
        size_mib=round(size_mib, 1),
        python_packages=len(facts.python_packages),
        system_packages=len(facts.system_packages),
        setuid_files=len(facts.setuid_files),
        uid=facts.uid,
    )


def canonical(name: str) -> str:
    """The one spelling of a package's name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()

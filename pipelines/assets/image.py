"""The container image of a release, where its service runs in containers: built, looked into, judged."""

import json
from collections.abc import Sequence
from dataclasses import asdict

import dagster as dg

from bentos.manifest import Manifest
from pipelines.assets.common import Chapter, verdict_check
from pipelines.assets.package import BENTO_FILE
from pipelines.core.capacity.proof import Load
from pipelines.core.exhibits import seal
from pipelines.core.home import Home
from pipelines.core.image import IMAGE_IS_SOUND, judge_image, resources_of
from pipelines.gateways.containers import BILL_FILE, Containers
from pipelines.gateways.tables import replacing_folder

IMAGE_FILE = "image.json"


def image(chapter: Chapter) -> Sequence:
    """The chapter's assets and checks: none where the service runs as processes."""
    if chapter.spec.serving.runtime != "container":
        return []
    return [
        _image(chapter),
        verdict_check(
            chapter, "image", IMAGE_IS_SOUND,
            "The image holds the model that was judged and nothing that training needs, and is not run by "
            "root.",
        ),
    ]  # fmt: skip


def _image(chapter: Chapter) -> dg.AssetsDefinition:
    spec = chapter.spec

    @dg.asset(
        key=chapter.key("image"),
        deps=[chapter.key("bento"), chapter.key("load_test")],
        partitions_def=chapter.versions,
        group_name=spec.name,
        kinds={"bentoml", "docker"},
        code_version=spec.serving.digest(),
    )
    def image(
        context: dg.AssetExecutionContext,
        home: dg.ResourceParam[Home],
        containers: dg.ResourceParam[Containers],
    ) -> dg.MaterializeResult:
        """The bento as a container image, with a bill of materials.

        It is read from end to end, without running any of it. It carries the limits of its containers: CPUs
        and threads by the plan, memory by what the load test measured.
        """
        version = context.partition_key
        source = chapter.of_version(home, "bento", version)
        bento, manifest = json.loads((source / BENTO_FILE).read_text()), Manifest.load(source)
        load = Load.load(chapter.of_version(home, "load_test", version))
        used_mib = max(step.service.memory_mib for step in load.candidate.steps)
        resources = resources_of(manifest.plan, used_mib, spec.serving.memory_megabytes)
        built = containers.build(bento["tag"], resources)
        with replacing_folder(chapter.of_version(home, "image", version)) as folder:
            facts = containers.examine(built.reference, folder)
            described = {**asdict(built), "limits": asdict(resources), "facts": asdict(facts)}
            (folder / IMAGE_FILE).write_text(json.dumps(described, indent=2) + "\n")
            bill = json.loads((folder / BILL_FILE).read_text())
            most_megabytes = spec.serving.max_image_megabytes
            verdict = judge_image(facts, built.reference, manifest.sha256, bill, most_megabytes)
            verdict.save(folder)
            seal(folder)
        return dg.MaterializeResult(
            metadata={
                "image": built.reference,
                "verdict": verdict.why,
                **verdict.numbers,
                **asdict(resources),
            },
            data_version=dg.DataVersion(built.digest),
        )

    return image

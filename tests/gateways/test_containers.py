"""Images are built from bentos, looked into and run, with a real engine.

What is asked of `made` holds for the fake and for the real one. No registry is asked: .ci/base_image makes a
stand-in for BentoML's base image. Everything lies in a store of its own.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest

from bentos.engines.engine import Engine
from bentos.manifest import MANIFEST_FILE, sha256
from bentos.schema import columns, predictions
from pipelines.core.errors import ContainersFailed, SettingsInvalid
from pipelines.core.home import Home
from pipelines.core.image import Resources, judge_image
from pipelines.core.release import Release
from pipelines.gateways.bento_store import BentoMLStore, BuiltBento
from pipelines.gateways.containers import BILL_FILE, Containers, Image, OciContainers
from pipelines.gateways.engines import SETTINGS
from pipelines.installation import Installation
from tests.bentos.tiny import CONTRACT, ROW, packed
from tests.e2e.both_runtimes import roll_out_twice
from tests.fakes.bento_store import FakeBentoStore
from tests.fakes.containers import FakeContainers
from tests.gateways.test_bento_store import ROWS, answers, free_port, serving
from tests.until import until

PROJECT = Path(__file__).parents[2]
BASE = "localhost/seatrial-base:3.11"
RESOURCES = Resources(cpus=1, memory_mib=768, pids=300)
STORAGE = '[storage]\ndriver = "overlay"\ngraphroot = "{folder}/store"\nrunroot = "{folder}/run"\n'
CONTAINERS_CONF = """\
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
[containers]
netns = "host"
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
"""
"""As a machine needs it that runs no systemd."""


@dataclass(frozen=True)
class Made:
    """A bento and the image that was built from it."""

    containers: Containers
    bento: BuiltBento
    image: Image


def engine_env(folder: Path, *, storage: str = "") -> dict[str, str]:
    """The environment in which the engine has its images in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "storage.conf").write_text(STORAGE.format(folder=folder) + storage)
    (folder / "containers.conf").write_text(CONTAINERS_CONF)
    return {
        **os.environ,
        "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
        "CONTAINERS_CONF": str(folder / "containers.conf"),
        "BUILDAH_ISOLATION": "chroot",
    }


@pytest.fixture(scope="module")
def store() -> Iterator[dict[str, str]]:
    """The environment of an engine whose store holds the base image only; it goes with the tests."""
    if os.geteuid() != 0 or not all(
        map(shutil.which, ("podman", "runc", "apt-cache", "/usr/bin/python3.11"))
    ):
        pytest.skip("needs root, podman and runc, and a Debian whose Python is 3.11")
    folder = Path(tempfile.mkdtemp(prefix="oci", dir="/tmp"))  # below a long path no container ends when told
    env = engine_env(folder)
    subprocess.run([PROJECT / ".ci" / "base_image", BASE], env={**env, "PYTHON": sys.executable}, check=True)
    yield env
    podman(env, "rm", "--all", "--force", "--time", "0")
    subprocess.run(["umount", str(folder / "store" / "overlay")], capture_output=True)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def real(store, tmp_path_factory, make_home) -> Made:
    home = Home(make_home())
    bento = BentoMLStore(home, PROJECT).build(*packed(tmp_path_factory.mktemp("release")))
    containers = OciContainers(home, store, base_image=BASE)
    return Made(containers, bento, containers.build(bento.tag, RESOURCES))


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.e2e)])
def made(request, tmp_path) -> Made:
    if request.param == "real":
        return request.getfixturevalue("real")
    bentos = FakeBentoStore(tmp_path / "bentos")
    bento, containers = bentos.build(*packed(tmp_path / "release")), FakeContainers(bentos)
    return Made(containers, bento, containers.build(bento.tag, RESOURCES))


def podman(env, *argv: str) -> str:
    return subprocess.run(["podman", *argv], env=env, check=True, capture_output=True, text=True).stdout


def replaced(made: Made) -> str:
    """Give the name of the image to another one, whose digest is returned."""
    name = made.image.reference.partition("@")[0]
    if isinstance(made.containers, FakeContainers):
        made.containers.file(made.bento.tag).write_text("sha256:other")
    elif isinstance(made.containers, OciContainers):
        podman(made.containers.env, "tag", BASE, name)
    return str(made.containers.digest(name))


def test_the_same_bento_is_one_image(made):
    assert made.containers.build(made.bento.tag, RESOURCES) == made.image
    assert made.image.reference == f"localhost/seatrial/{made.bento.tag}@{made.image.digest}"
    assert made.containers.exists(made.image.reference)


def test_an_image_is_sound(made, tmp_path):
    facts = made.containers.examine(made.image.reference, tmp_path)
    bill = json.loads((tmp_path / BILL_FILE).read_text())
    model_sha256 = sha256(made.bento.model)
    verdict = judge_image(facts, made.image.reference, model_sha256, bill, 1024)
    assert verdict.passed, verdict.why
    assert facts.digest == made.image.digest
    assert facts.manifest_sha256 == sha256(made.bento.model.with_name(MANIFEST_FILE))
    assert {"bentoml", "onnxruntime"} <= set(facts.python_packages)
    assert not judge_image(facts, made.image.reference, "0" * 64, bill, 1024).passed


def test_a_container_answers_like_the_onnx_file(made, tmp_path):
    port = free_port()
    command = made.containers.command(made.image.reference, port, name="seatrial-answers")
    expected = predictions(Engine(made.bento.model, CONTRACT).predict(columns(CONTRACT, ROWS)))
    with serving(command, port, tmp_path / "service.log") as client:
        assert answers(client, ROWS) == expected
        assert client.get("/readyz").headers["x-release-id"] == "v3-0a1b2c"


def test_an_image_that_was_replaced_is_refused_and_built_again(made, tmp_path):
    other = replaced(made)
    assert not made.containers.exists(made.image.reference)
    with pytest.raises(ContainersFailed, match=f"{other} now.*; run its whole release again"):
        made.containers.command(made.image.reference, 1, name="refused")
    with pytest.raises(ContainersFailed, match=other):
        made.containers.examine(made.image.reference, tmp_path)
    assert made.containers.build(made.bento.tag, RESOURCES) == made.image
    gone = made.image.reference.replace("v3", "v4")
    assert made.containers.digest(gone) is None
    with pytest.raises(ContainersFailed, match="it is gone; run its whole release again"):
        made.containers.command(gone, 1, name="gone")
    made.containers.remove(gone)


def test_a_removed_image_is_gone(tmp_path):
    bentos = FakeBentoStore(tmp_path / "bentos")
    made = FakeContainers(bentos)
    image = made.build(bentos.build(*packed(tmp_path / "release")).tag, RESOURCES)
    made.remove(image.reference)
    assert not made.exists(image.reference)


@pytest.mark.e2e
def test_a_container_may_do_nothing_but_answer(real, tmp_path):
    port, name = free_port(), "seatrial-confined"
    command = real.containers.command(real.image.reference, port, name=name, logged=True)
    assert command.argv[-5] == real.image.reference
    with serving(command, port, tmp_path / "service.log") as client:
        answers(client, [ROW])
        (seen,) = json.loads(podman(real.containers.env, "inspect", name))
        status = podman(real.containers.env, "exec", name, "cat", "/proc/1/status")
        for path in ("/x", "/home/bentoml/bento/x", "/app/.venv/x"):
            with pytest.raises(subprocess.CalledProcessError):
                podman(real.containers.env, "exec", name, "touch", path)
    lines = dict(line.split(":\t", 1) for line in status.splitlines())
    assert lines["Uid"].split() == ["1034"] * 4
    assert {lines[kind] for kind in ("CapEff", "CapPrm", "CapBnd")} == {"0" * 16}
    assert lines["NoNewPrivs"] == "1"
    limits = seen["HostConfig"]
    assert (limits["Memory"], limits["PidsLimit"]) == (768 * 2**20, 300)
    assert limits["NanoCpus"] == 10**9
    assert limits["ReadonlyRootfs"]
    log = real.containers.home.prediction_log("tiny")
    assert [file for file in log.rglob("*") if file.is_file()], "what was answered is logged"
    assert not podman(real.containers.env, "ps", "--all", "--quiet"), "it ends when it is told to"


@pytest.mark.e2e
def test_a_killed_client_leaves_nothing_in_the_way(real, tmp_path):
    port, env = free_port(), real.containers.env
    command = real.containers.command(real.image.reference, port, name="seatrial-killed")
    with serving(command, port, tmp_path / "first.log") as client:
        (client_pid,) = pids_of(command.argv)
        first = podman(env, "ps", "--all", "--quiet")
        os.kill(client_pid, signal.SIGKILL)
        assert answers(client, [ROW]), "its container still serves"
        again = subprocess.Popen(command.argv, env={**env, **command.env}, stderr=subprocess.DEVNULL)
        try:
            until(lambda: podman(env, "ps", "--all", "--quiet") not in ("", first))
            until(lambda: is_ready(client))
            assert answers(client, [ROW])
            assert len(podman(env, "ps", "--all", "--quiet").split()) == 1
        finally:
            again.terminate()
            again.wait(20)


@pytest.mark.e2e
def test_one_plan_leads_processes_and_containers_alike(real, tmp_path, monkeypatch):
    for name in set(SETTINGS) & set(real.containers.env):
        monkeypatch.setenv(name, real.containers.env[name])
    installation = Installation(real.containers.home, free_port(), "", base_image=BASE)
    bento = installation.bentos.build(*packed(tmp_path / "release", "v2-000000"))
    stable = Release("tiny", "2", "v2-000000", "fp32", bento.tag, "/", "")
    new = replace(stable, version="3", release_id="v3-0a1b2c", tag=real.bento.tag)
    try:
        rounds = roll_out_twice(installation.deployments, stable, new, real.image.reference)
        assert not podman(real.containers.env, "ps", "--all", "--quiet"), "a container goes with its release"
    finally:
        installation.deployments.down()
    for users in rounds:
        assert users.failed() == []
        answered = [each.release for each in users.answers]
        assert min(answered.count(each.release_id) for each in (stable, new)) > 100
        assert answered[-1] == stable.release_id
    first, *entries = installation.ledger.history("tiny")
    alike, image = ("started", "promoted", "restored"), real.image.reference
    assert first.action == "deployed"
    assert [each.action for each in entries] == [*alike, *alike]
    assert [each.release and each.release.image for each in entries] == ["", "", "", image, image, ""]


def is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def pids_of(argv: tuple[str, ...]) -> list[int]:
    wanted = b"\0".join(part.encode() for part in argv) + b"\0"
    return [int(each.parent.name) for each in Path("/proc").glob("[0-9]*/cmdline") if read(each) == wanted]


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended
        return b""


def test_what_keeps_an_engine_from_working_is_one_sentence(tmp_path):
    def containers(**changed) -> OciContainers:
        return OciContainers(Home(tmp_path), {"PATH": str(tmp_path)}, **changed)

    with pytest.raises(
        ContainersFailed, match=r"a container engine failed: it is not on the PATH; install pod"
    ):
        containers().digest("localhost/seatrial/tiny:v3")
    with pytest.raises(ContainersFailed, match="Looking for buildah failed"):
        containers(engine_name="buildah").digest("localhost/seatrial/tiny:v3")
    with pytest.raises(SettingsInvalid, match="SEATRIAL_CONTAINER_ENGINE is 'rkt'; it is one of podman"):
        containers(engine_name="rkt").digest("localhost/seatrial/tiny:v3")


@pytest.mark.e2e
def test_a_user_who_may_not_use_the_engine_is_told_so(store, tmp_path):
    wrapper = tmp_path / "podman"
    nobody = "setpriv --reuid 65534 --regid 65534 --clear-groups"
    wrapper.write_text(f'#!/bin/sh\nexec {nobody} {shutil.which("podman")} "$@"\n')
    wrapper.chmod(0o755)
    containers = OciContainers(Home(tmp_path), {**store, "PATH": f"{tmp_path}:{store['PATH']}"})
    with pytest.raises(ContainersFailed, match=r"this user may not use podman.*; make `podman info` work"):
        containers.build("tiny:v3", RESOURCES)


@pytest.mark.e2e
def test_a_base_image_that_cannot_be_fetched_is_named(real):
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as registry:  # engines try TLS, but once only
        name = f"127.0.0.1:{registry.server_port}/none:1"
        answering = threading.Thread(target=registry.serve_forever)
        answering.start()
        try:
            with pytest.raises(ContainersFailed, match=f"{name} cannot be fetched; .*SEATRIAL_BASE_IMAGE"):
                replace(real.containers, base_image=name).build(real.bento.tag, RESOURCES)
        finally:
            registry.shutdown()
            answering.join()
    assert real.containers.exists(real.image.reference), "the image that was there stays"


@pytest.mark.e2e
def test_a_full_disk_leaves_nothing_half_built(real, tmp_path):
    model, manifest = packed(tmp_path / "release", "v4-ffffff")
    (tmp_path / "release" / "large.bin").write_bytes(os.urandom(2**24))
    files = {"large.bin": sha256(tmp_path / "release" / "large.bin")}
    bento = BentoMLStore(real.containers.home, PROJECT).build(model, replace(manifest, files=files))
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)], check=True)
    try:
        known = Path(real.containers.env["CONTAINERS_STORAGE_CONF"]).parent / "store"
        env = engine_env(folder, storage=f'[storage.options]\nadditionalimagestores = ["{known}"]\n')
        before = podman(env, "images", "--all", "--quiet")
        with pytest.raises(
            ContainersFailed, match=r"the disk on which podman keeps its images is full; free"
        ):
            replace(real.containers, env=env).build(bento.tag, RESOURCES)
        assert podman(env, "images", "--all", "--quiet") == before
        assert not podman(env, "ps", "--all", "--external", "--quiet")
        assert not list(real.containers.home.bentoml.glob("building/*"))
    finally:
        subprocess.run(["umount", "--recursive", str(folder)], check=True)
    assert real.containers.exists(real.image.reference)

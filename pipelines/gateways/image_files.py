"""What lies in a container image: read as a stream from outside, so that nothing of it runs.

Not a door of its own: it stands behind `containers`.
"""

import hashlib
import json
import re
import subprocess
import sys
import tarfile
import tempfile
import venv
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.parser import BytesParser
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from bentos.manifest import MANIFEST_FILE, MODEL_FILE
from pipelines.core.errors import ContainersFailed

METADATA = re.compile(r".*/(?:site|dist)-packages/([^/]+\.(?:dist|egg)-info)/(?:METADATA|PKG-INFO)")
SETUID, EXECUTABLE = 0o6000, 0o111


@dataclass
class Files:
    """What was found: digests of models and manifests by path, metadata of Python packages by the name of
    their folder, users' numbers by name, fields of Debian packages, programs that run as somebody else."""

    models: dict[str, str] = field(default_factory=dict)
    manifests: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, bytes] = field(default_factory=dict)
    users: dict[str, int] = field(default_factory=dict)
    debian: list[Mapping[str, str]] = field(default_factory=list)
    setuid: list[str] = field(default_factory=list)

    @property
    def python_packages(self) -> dict[str, str]:
        parsed = [BytesParser().parsebytes(each, headersonly=True) for each in self.metadata.values()]
        return {each["Name"]: each["Version"] for each in parsed if each["Name"]}

    @property
    def system_packages(self) -> dict[str, str]:
        return {each["Package"]: each["Version"] for each in self.debian}


def read_files(stream: IO[bytes]) -> Files:
    """Read the tar stream of a whole image, in seconds. Raises tarfile.TarError for one that is cut off."""
    files = Files()
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            if member.isfile():
                _take(files, member, archive)
    return files


def _take(files: Files, member: tarfile.TarInfo, archive: tarfile.TarFile) -> None:
    path, name = member.name.removeprefix("./"), member.name.rpartition("/")[2]
    metadata = METADATA.fullmatch(path)
    if member.mode & SETUID and member.mode & EXECUTABLE:
        files.setuid.append(path)
    if name in (MODEL_FILE, MANIFEST_FILE) and "/models/" in path:
        digests = files.models if name == MODEL_FILE else files.manifests
        digests[path] = hashlib.file_digest(_opened(archive, member), "sha256").hexdigest()  # pyright: ignore
    elif metadata:
        files.metadata[metadata[1]] = _opened(archive, member).read()
    elif path == "etc/passwd":
        lines = [line.split(":") for line in _opened(archive, member).read().decode().splitlines()]
        files.users.update({line[0]: int(line[2]) for line in lines if len(line) > 2})
    elif path == "var/lib/dpkg/status":
        stanzas = _opened(archive, member).read().decode().split("\n\n")
        files.debian += [
            dict(re.findall(r"^(\S+): (.*)$", stanza, re.M)) for stanza in stanzas if stanza.strip()
        ]


def _opened(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    opened = archive.extractfile(member)
    assert opened  # a regular file
    return opened


def bill_of(files: Files) -> dict[str, Any]:
    """The bill of materials (CycloneDX), valid by its schema, the same for the same packages.

    `cyclonedx-py environment` lists the Python packages, from their metadata in an empty environment of ours;
    Debian's are added by their package URLs. Links to home pages are left out, as it takes a quarter
    of a minute to validate them. Raises ContainersFailed.
    """
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    bill = json.loads(_python_bill(files.metadata))
    bill["components"] = [*bill.get("components", ()), *map(_debian_component, files.debian)]
    for component in [*bill["components"], *bill["metadata"]["tools"]["components"]]:
        component.pop("externalReferences", None)
    if fault := JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill)):
        why = str(fault).partition("\n")[0]
        raise ContainersFailed("Writing the bill of materials", why, "install cyclonedx-bom anew")
    return bill


def _python_bill(metadata: Mapping[str, bytes]) -> str:
    with tempfile.TemporaryDirectory() as temp:
        venv.create(temp, symlinks=True)
        (packages,) = Path(temp).glob("lib/python*/site-packages")
        for folder, content in metadata.items():
            (packages / folder).mkdir()
            name = "METADATA" if folder.endswith(".dist-info") else "PKG-INFO"
            (packages / folder / name).write_bytes(content)
        listing = [sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible"]
        listing += ["--no-validate", temp]
        ended = subprocess.run(listing, capture_output=True, text=True)
    if ended.returncode:
        last = ended.stderr.strip().rpartition("\n")[2]
        raise ContainersFailed("Listing the Python packages", last, "install cyclonedx-bom anew")
    return ended.stdout


def _debian_component(fields: Mapping[str, str]) -> dict[str, str]:
    name, version, arch = fields["Package"], fields["Version"], fields["Architecture"]
    url = f"pkg:deb/debian/{quote(name)}@{quote(version)}?arch={arch}"
    return {"type": "library", "bom-ref": url, "name": name, "version": version, "purl": url}

"""bentos/requirements.txt is the whole closure of the service, pinned to what the tests ran with."""

from importlib.metadata import distribution, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).parents[2]
ROOTS = (
    "bentoml",
    "grpcio",
    "httptools",
    "numpy",
    "onnxruntime",
    "opentelemetry-exporter-otlp-proto-http",
    "orjson",
    "prometheus-client",
    "pyarrow",
    "redis",
    "tokenizers",
    "tritonclient",
    "uvloop",
)
NEVER = {"torch", "mlflow", "dagster", "pandas", "great-expectations", "evidently", "uv"}


def pins(path: Path) -> dict[str, str]:
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return {canonicalize_name(name): version for name, _, version in (x.partition("==") for x in lines if x)}


def closure(roots: tuple[str, ...]) -> dict[str, str]:
    """The installed version of each root and of all that it needs here."""
    found: dict[str, str] = {}
    todo = [Requirement(root) for root in roots]
    while todo:
        wanted = todo.pop()
        if canonicalize_name(wanted.name) not in found:
            found[canonicalize_name(wanted.name)] = distribution(wanted.name).version
            needs = map(Requirement, requires(wanted.name) or ())
            todo += [need for need in needs if not need.marker or need.marker.evaluate({"extra": ""})]
    return found


def test_pins_the_whole_closure_as_installed():
    assert pins(PROJECT / "bentos" / "requirements.txt") == closure(ROOTS)


def test_agrees_with_the_constraints():
    agreed = pins(PROJECT / "constraints.txt")
    assert {
        name: version
        for name, version in pins(PROJECT / "bentos" / "requirements.txt").items()
        if agreed.get(name, version) != version
    } == {}


def test_holds_nothing_of_the_pipeline():
    assert pins(PROJECT / "bentos" / "requirements.txt").keys() & NEVER == set()

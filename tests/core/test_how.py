"""how.json: what it records, and that its step is repeated from it, wherever the home lies now."""

import json
import platform
from importlib.metadata import version
from pathlib import Path

import pytest

from bentos.manifest import sha256
from pipelines.core.errors import FileMissing, SettingsInvalid
from pipelines.core.how import main, perform, replay


def scale(inputs, settings, folder: Path) -> dict:
    """A step like the real ones: numbers from a file times a factor, and the words of a folder."""
    numbers = [settings["factor"] * float(line) for line in inputs["numbers"].read_text().split()]
    (folder / "scaled.txt").write_text("\n".join(map(str, numbers)))
    (folder / "words").mkdir(exist_ok=True)
    names = sorted(path.name for path in inputs["words"].iterdir())
    (folder / "words" / "all.txt").write_text(" ".join(names))
    return {"rows": len(numbers)}


def scale_wrongly(inputs, settings, folder: Path) -> dict:
    return scale(inputs, {**settings, "factor": -1}, folder)


def scale_and_forget(inputs, settings, folder: Path) -> dict:
    made = scale(inputs, settings, folder)
    (folder / "words" / "all.txt").unlink()
    return made


def fail(inputs, settings, folder: Path) -> dict:
    raise ArithmeticError(settings["reason"])


@pytest.fixture(autouse=True)
def steps(monkeypatch: pytest.MonkeyPatch) -> dict:
    known = {"scale": scale, "fail": fail}
    monkeypatch.setattr("pipelines.core.steps.STEPS", known)
    return known


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """data/numbers.txt, artifacts/words/, and the artifact that a step made of both."""
    words, data, made = (tmp_path / "home" / name for name in ("artifacts/words", "data", "artifacts/scaled"))
    for folder in (words, data, made):
        folder.mkdir(parents=True)
    (data / "numbers.txt").write_text("1 2 3.5")
    for name in ("b.txt", "a.txt", "how.json"):
        (words / name).write_text(name)
    perform("scale", {"numbers": data / "numbers.txt", "words": words}, {"factor": 2}, made)
    return tmp_path / "home"


def how_of(home: Path) -> Path:
    return home / "artifacts" / "scaled" / "how.json"


def edit(home: Path, part: str, **entries) -> None:
    made = json.loads(how_of(home).read_text())
    how_of(home).write_text(json.dumps({**made, part: {**made[part], **entries}}))


def test_all_that_a_replay_needs_is_recorded(home: Path):
    made, folder = json.loads(how_of(home).read_text()), how_of(home).parent
    words = {name: sha256(home / "artifacts" / "words" / name) for name in ("a.txt", "b.txt")}
    assert (made["step"], made["settings"]) == ("scale", {"factor": 2})
    assert made["inputs"] == {
        "numbers": {"path": "../../data/numbers.txt", "sha256": sha256(home / "data" / "numbers.txt")},
        "words": {"path": "../words", "sha256": words},
    }
    assert made["outputs"] == {name: sha256(folder / name) for name in ("scaled.txt", "words/all.txt")}
    assert made["versions"]["python"] == platform.python_version()
    assert made["versions"]["torch"] == version("torch")


def test_what_the_step_returns_is_returned_and_tuples_reach_it_as_a_replay_would_read_them(tmp_path, steps):
    steps["echo"] = lambda inputs, settings, folder: settings
    assert perform("echo", {}, {"sizes": (1, 8)}, tmp_path) == {"sizes": [1, 8]}


def test_what_lay_there_before_is_an_output_only_if_it_was_written_again(tmp_path: Path, steps: dict):
    (tmp_path / "kept.txt").write_text("kept")
    (tmp_path / "old.txt").write_text("older")
    steps["write"] = lambda inputs, settings, folder: {"bytes": (folder / "old.txt").write_text("new")}
    perform("write", {}, {}, tmp_path)
    assert list(json.loads((tmp_path / "how.json").read_text())["outputs"]) == ["old.txt"]


def test_a_step_that_fails_leaves_no_record(tmp_path: Path):
    with pytest.raises(ArithmeticError, match="for a reason"):
        perform("fail", {}, {"reason": "for a reason"}, tmp_path)
    assert not (tmp_path / "how.json").exists()


def test_an_unknown_step_and_a_missing_input_are_refused(tmp_path: Path):
    with pytest.raises(SettingsInvalid, match="step is 'scail'; the steps are scale, fail"):
        perform("scail", {}, {}, tmp_path)
    with pytest.raises(FileMissing, match=r"The numbers file .*numbers.txt does not exist"):
        perform("scale", {"numbers": tmp_path / "numbers.txt"}, {}, tmp_path)


def test_a_replay_gives_the_same_and_keeps_its_own_record(home: Path, tmp_path: Path):
    found = replay(how_of(home), tmp_path / "again")
    assert (found.outputs_same, found.outputs_differ) == (("scaled.txt", "words/all.txt"), ())
    assert found.versions_differ == {}
    assert replay(tmp_path / "again" / "how.json", tmp_path / "third").outputs_differ == ()


def test_a_home_that_was_moved_replays(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    moved = home.rename(tmp_path / "deeper")
    assert replay(how_of(moved), tmp_path / "again").outputs_differ == ()
    monkeypatch.chdir(how_of(moved).parent)
    assert replay(Path("how.json"), tmp_path / "third").outputs_differ == ()


@pytest.mark.parametrize("changed", [scale_wrongly, scale_and_forget])
def test_an_output_that_comes_out_another_or_not_at_all_differs(home, tmp_path, steps, changed):
    steps["scale"] = changed
    found = replay(how_of(home), tmp_path / "again")
    differs = {scale_wrongly: "scaled.txt", scale_and_forget: "words/all.txt"}[changed]
    assert found.outputs_differ == (differs,) and differs not in found.outputs_same


def test_versions_that_differ_are_told(home: Path, tmp_path: Path):
    edit(home, "versions", python="2.7.18", tensorflow="1.0", numpy=version("numpy"))
    differ = replay(how_of(home), tmp_path / "again").versions_differ
    assert differ == {"python": ("2.7.18", platform.python_version()), "tensorflow": ("1.0", "none")}


def test_sources_that_changed_are_told(home: Path, tmp_path: Path):
    edit(home, "versions", code="of another day")
    ((name, (then, now)),) = replay(how_of(home), tmp_path / "again").versions_differ.items()
    assert (name, then) == ("code", "of another day") and len(now) == 16


def test_an_input_that_changed_is_refused(home: Path, tmp_path: Path):
    (home / "data" / "numbers.txt").write_text("1 2 3.6")
    with pytest.raises(SettingsInvalid, match=r"The input numbers of .* is '.*numbers.txt'; it changed"):
        replay(how_of(home), tmp_path / "again")


def test_an_input_that_is_gone_is_refused(home: Path, tmp_path: Path):
    (home / "data" / "numbers.txt").unlink()
    with pytest.raises(SettingsInvalid, match=r"numbers.txt'; it is gone: put back what the step read"):
        replay(how_of(home), tmp_path / "again")


def test_the_files_that_changed_in_an_input_folder_are_named(home: Path, tmp_path: Path):
    words = home / "artifacts" / "words"
    (words / "how.json").write_text("made again, by another version")
    assert replay(how_of(home), tmp_path / "again").outputs_differ == ()
    (words / "c.txt").write_text("c")
    (words / "a.txt").write_text("b")
    with pytest.raises(SettingsInvalid, match=r"in it changed a\.txt, c\.txt"):
        replay(how_of(home), tmp_path / "third")


def test_nothing_is_overwritten(home: Path):
    with pytest.raises(SettingsInvalid, match=r"into is '.*scaled'; choose an empty folder"):
        replay(how_of(home), how_of(home).parent)


@pytest.mark.parametrize("text", [None, "{", "[]", '{"step": "scale"}'])
def test_something_else_than_how_json_is_refused(tmp_path: Path, text: str | None):
    if text is not None:
        (tmp_path / "how.json").write_text(text)
    with pytest.raises(SettingsInvalid, match=r"how is '.*how.json'; it can't be read .*: name the how.json"):
        replay(tmp_path / "how.json", tmp_path / "again")


def test_the_command_says_what_came_out_the_same(home: Path, capsys: pytest.CaptureFixture):
    edit(home, "versions", onnx="1.0.0")
    assert main([str(how_of(home))]) == 0
    says = ["same     scaled.txt", "same     words/all.txt", f"version  onnx was 1.0.0, is {version('onnx')}"]
    assert capsys.readouterr().out.splitlines() == says


def test_the_command_fails_when_an_output_differs(home: Path, steps: dict, tmp_path: Path, capsys):
    steps["scale"] = scale_wrongly
    assert main([str(how_of(home)), "--into", str(tmp_path / "again")]) == 1
    assert "differs  scaled.txt" in capsys.readouterr().out
    assert (tmp_path / "again" / "scaled.txt").read_text() == "-1.0\n-2.0\n-3.5"


def test_the_command_says_in_a_sentence_why_it_can_not_compare(tmp_path: Path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path / "how.json")])
    assert "name the how.json beside an artifact." in capsys.readouterr().err

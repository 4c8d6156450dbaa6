import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from pipelines.core.home import Home
from pipelines.gateways.processes import Command, Supervisor
from tests.fakes.processes import FakeProcesses
from tests.until import until

FOREVER = "import time; time.sleep(600)"


@pytest.fixture(params=["fake", pytest.param("supervisord", marks=pytest.mark.e2e)])
def processes(request, tmp_path):
    made = FakeProcesses(tmp_path) if request.param == "fake" else Supervisor(Home(tmp_path))
    yield made
    made.shutdown()


@pytest.fixture
def supervisor(tmp_path):
    made = Supervisor(Home(tmp_path))
    yield made
    made.shutdown()


def python(code: str, *arguments: str, **env: str) -> Command:
    return Command((sys.executable, "-u", "-c", code, *arguments), env)


def printed(processes, name: str, lines: int = 1) -> list[str]:
    """The first lines that `name` printed, once they are there."""

    def told() -> object:
        logs = processes.log(name).parent.glob("*")
        return processes.states(), {log.name: log.read_text()[-1000:] for log in logs}

    return until(lambda: processes.log(name).exists() and said(processes, name, lines), told)


def said(processes, name: str, lines: int) -> list[str] | None:
    *found, _ = processes.log(name).read_text().split("\n")  # what comes last is not whole yet
    return found if len(found) >= lines else None


def supervisor_pid(supervisor: Supervisor) -> int:
    return int((supervisor.folder / "supervisord.pid").read_text())


def running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_nothing_runs_at_first(processes):
    assert processes.states() == {}
    processes.stop("unknown")
    processes.shutdown()
    assert processes.states() == {}


def test_process_runs_until_it_is_stopped(processes):
    processes.start("one", python(f"import os; print(os.getpid()); {FOREVER}"))
    processes.start("two", python(FOREVER))
    pid = int(printed(processes, "one")[0])
    assert set(processes.states()) == {"one", "two"}
    assert processes.states()["one"] in ("STARTING", "RUNNING")
    processes.stop("one")
    assert set(processes.states()) == {"two"}
    assert not running(pid)


def test_same_name_replaces_the_process(processes):
    for word in ("first", "second"):
        processes.start("one", python(f"import os; print('{word}', os.getpid()); {FOREVER}"))
        printed(processes, "one", 2 if word == "second" else 1)
    first, second = (line.split() for line in printed(processes, "one", 2))
    assert (first[0], second[0]) == ("first", "second")
    assert not running(int(first[1])) and running(int(second[1]))


def test_arguments_and_environment_arrive_as_they_are(processes, monkeypatch):
    monkeypatch.setenv("SECRET", "not for services")
    odd = """100% "double" 'single' ; # $HOME `id` %(here)s, last"""
    code = "import os, sys; print(sys.argv[1], os.environ['ODD'], 'SECRET' in os.environ, sep='\\n')"
    processes.start("odd", python(f"{code}; {FOREVER}", odd, ODD=odd))
    assert printed(processes, "odd", 3) == [odd, odd, "False"]


def test_process_that_ends_is_not_running(processes):
    processes.start("broken", Command((sys.executable, "-c", "raise SystemExit('no model')")))
    until(lambda: processes.states()["broken"] not in ("STARTING", "RUNNING"))
    assert "no model" in processes.log("broken").read_text()


def test_shutdown_ends_children_of_children(processes):
    code = (
        f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', '{FOREVER}']).pid); {FOREVER}"
    )
    processes.start("parent", python(code))
    grandchild = int(printed(processes, "parent")[0])
    processes.shutdown()
    assert processes.states() == {}
    until(lambda: not running(grandchild))


@pytest.mark.e2e
def test_killed_process_comes_back(supervisor):
    supervisor.start("one", python(f"import os; print(os.getpid()); {FOREVER}"))
    os.kill(int(printed(supervisor, "one")[0]), signal.SIGKILL)
    assert running(int(printed(supervisor, "one", 2)[1]))


@pytest.mark.e2e
def test_shutdown_leaves_no_process_and_no_socket(supervisor):
    supervisor.start("one", python(FOREVER))
    pid = supervisor_pid(supervisor)
    supervisor.shutdown()
    assert not running(pid)
    assert {file.name for file in supervisor.folder.iterdir() if not file.is_dir()} == {
        "supervisor.lock",
        "supervisord.conf",
    }


@pytest.mark.e2e
def test_supervisor_outlives_the_program_that_started_it(tmp_path, supervisor):
    program = f"""
from pathlib import Path
from pipelines.core.home import Home
from pipelines.gateways.processes import Command, Supervisor
Supervisor(Home(Path({str(tmp_path)!r}))).start("one", Command(("sleep", "600")))
"""
    starter = subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
    assert starter.wait() == 0
    assert set(supervisor.states()) == {"one"}
    assert os.getsid(supervisor_pid(supervisor)) != starter.pid


@pytest.mark.e2e
def test_programs_that_start_at_once_share_one_supervisor(tmp_path, supervisor):
    program = f"""
import sys
from pathlib import Path
from pipelines.core.home import Home
from pipelines.gateways.processes import Command, Supervisor
Supervisor(Home(Path({str(tmp_path)!r}))).start(sys.argv[1], Command(("sleep", "600")))
"""
    starters = [subprocess.Popen([sys.executable, "-c", program, name]) for name in ("a", "b", "c")]
    assert [starter.wait() for starter in starters] == [0, 0, 0]
    assert set(supervisor.states()) == {"a", "b", "c"}


@pytest.mark.e2e
def test_long_home_with_odd_characters_works(tmp_path):
    supervisor = Supervisor(Home(tmp_path / "a home; 100% #odd" / ("long" * 30)))
    try:
        supervisor.start("one", python(FOREVER))
        assert set(supervisor.states()) == {"one"}
        folder = (supervisor.folder / "supervisor.link").readlink().parent
        assert folder.stat().st_mode & 0o777 == 0o700
    finally:
        supervisor.shutdown()
    assert not folder.exists()


@pytest.mark.e2e
def test_killed_supervisor_is_replaced_with_all_it_had(supervisor):
    for name in ("one", "two"):
        supervisor.start(name, python(f"import os; print(os.getpid()); {FOREVER}"))
    strays = [int(printed(supervisor, name)[0]) for name in ("one", "two")]
    os.kill(supervisor_pid(supervisor), signal.SIGKILL)
    until(lambda: supervisor.states() == {})
    supervisor.start("three", python(FOREVER))
    assert set(supervisor.states()) == {"one", "two", "three"}
    assert not any(map(running, strays))
    assert running(int(printed(supervisor, "one", 2)[1]))


@pytest.mark.e2e
def test_shutdown_ends_what_a_killed_supervisor_left(supervisor):
    supervisor.start("one", python(f"import os; print(os.getpid()); {FOREVER}"))
    stray = int(printed(supervisor, "one")[0])
    os.kill(supervisor_pid(supervisor), signal.SIGKILL)
    until(lambda: supervisor.states() == {})
    supervisor.shutdown()
    assert not running(stray)


@pytest.mark.e2e
def test_files_of_a_machine_that_was_rebooted_do_not_confuse(tmp_path, supervisor):
    supervisor.folder.mkdir()
    (supervisor.folder / "supervisord.pid").write_text(f"{os.getpid()}\n")
    Path(supervisor.folder / "supervisor.sock").write_bytes(b"")
    assert supervisor.states() == {}
    supervisor.start("one", python(FOREVER))
    assert set(supervisor.states()) == {"one"}

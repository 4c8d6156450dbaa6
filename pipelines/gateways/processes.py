"""Supervised processes: started once, restarted when they die, stopped for good on request.

The supervisor is supervisord: it outlives the program that started it, and any program finds it again by the
socket below SEATRIAL_HOME. Each process runs from a small shell script, which quotes whatever its arguments
and environment hold, and which one can run by hand.
"""

import fcntl
import hashlib
import http.client
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from pipelines.core.capacity.readings import Usage
from pipelines.core.errors import ServiceFailed
from pipelines.core.home import Home
from pipelines.gateways.tables import replacing

MAX_SOCKET_PATH = 96  # the system allows 107 bytes; supervisord first binds a name up to 11 longer

SUPERVISOR_CONF = """\
[supervisord]
logfile=logs/supervisord.log
logfile_maxbytes=10MB
logfile_backups=3
pidfile=supervisord.pid
[unix_http_server]
file={socket}
chmod=0700
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
[include]
files=programs/*.conf
"""

# A process that dies within startsecs counts as a failed start: it is tried again after 1, 2, 3, … seconds.
PROGRAM_CONF = """\
[program:{name}]
command=/bin/sh programs/{name}.sh
autorestart=true
startsecs=5
startretries=10
stopwaitsecs=20
stopasgroup=true
killasgroup=true
redirect_stderr=true
stdout_logfile=logs/{name}.log
stdout_logfile_maxbytes=10MB
stdout_logfile_backups=3
"""


@dataclass(frozen=True)
class Command:
    """What to run: `argv` with `env` added to a clean environment (PATH and HOME only)."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)


class Processes(ABC):
    """A process supervisor that outlives the program which started it."""

    @abstractmethod
    def start(self, name: str, command: Command) -> None:
        """Run `command` as `name` and keep it running. The same name again replaces it."""

    @abstractmethod
    def stop(self, name: str) -> None:
        """End `name` with SIGTERM (SIGKILL after a grace period) and forget it. Unknown names are fine."""

    @abstractmethod
    def states(self) -> dict[str, str]:
        """The state of each process, e.g. {"envoy": "RUNNING"}; empty when no supervisor runs."""

    @abstractmethod
    def usage(self, name: str) -> Usage:
        """What `name` and all processes below it use. Raises ServiceFailed where it does not run."""

    @abstractmethod
    def log(self, name: str) -> Path:
        """Where the output of `name` goes."""

    @abstractmethod
    def shutdown(self) -> None:
        """End every process and the supervisor itself, and return when they are gone."""


class Supervisor(Processes):
    """supervisord. One that died without a word (a reboot, SIGKILL) is started again by the next `start`,
    and with it every process it had."""

    def __init__(self, home: Home) -> None:
        self.folder = home.serving.absolute()

    def start(self, name: str, command: Command) -> None:
        with self._lock():
            if self._alive():
                self._forget(name)
                self._write(name, command)
                self._call("reloadConfig")
                self._call("addProcessGroup", name)
            else:
                self._write(name, command)
                self._launch()
            with suppress(xmlrpc.client.Fault):  # it has been started already
                self._call("startProcess", name, False)

    def stop(self, name: str) -> None:
        if self.folder.exists():
            with self._lock():
                self._forget(name)

    def states(self) -> dict[str, str]:
        try:
            return {process["name"]: process["statename"] for process in self._call("getAllProcessInfo")}
        except (OSError, http.client.HTTPException, xmlrpc.client.Fault):  # none there, or shutting down
            return {}

    def usage(self, name: str) -> Usage:
        try:
            pid = self._call("getProcessInfo", name)["pid"]
        except (OSError, http.client.HTTPException, xmlrpc.client.Fault):
            pid = 0
        if not pid:
            raise ServiceFailed(name, "does not run", self.log(name))
        return tree_usage(pid)

    def log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    def shutdown(self) -> None:
        if not self.folder.exists():
            return
        with self._lock():
            if self._alive():
                pid = self._call("getPID")
                self._call("shutdown")
                _wait_until_gone(pid)
            self._end_strays()
            socket = self._socket()
            for left in [socket, self.folder / "supervisord.pid", self._link()]:
                left.unlink(missing_ok=True)
            if socket.parent != self.folder and socket.parent.exists():
                socket.parent.rmdir()
            for program in (self.folder / "programs").glob("*"):
                program.unlink()

    def _write(self, name: str, command: Command) -> None:
        programs = self.folder / "programs"
        env = [f"{key}={value}" for key, value in command.env.items()]
        with replacing(programs / f"{name}.sh") as temp:
            temp.write_text(f"exec env {shlex.join([*env, *command.argv])}\n")
            temp.chmod(0o700)
        with replacing(programs / f"{name}.conf") as temp:
            temp.write_text(PROGRAM_CONF.format(name=name))

    def _launch(self) -> None:
        """Start supervisord, which detaches itself once its socket listens."""
        self._end_strays()
        (self.folder / "logs").mkdir(exist_ok=True)
        with replacing(self.folder / "supervisord.conf") as temp:
            temp.write_text(SUPERVISOR_CONF.format(socket=self._prepared_socket()))
        done = subprocess.run(
            [sys.executable, "-m", "supervisor.supervisord", "-c", "supervisord.conf"],
            cwd=self.folder,  # the paths in its configuration are relative, so that any home can be written
            env={key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            reason = done.stdout.strip().rpartition("\n")[2]
            raise ServiceFailed("supervisord", f"did not start ({reason})", self.log("supervisord"))

    def _forget(self, name: str) -> None:
        if not self._alive():
            self._end_strays()
        if name in self.states():
            with suppress(xmlrpc.client.Fault):  # it has ended already
                self._call("stopProcess", name)
            self._call("removeProcessGroup", name)
        for end in ("conf", "sh"):
            (self.folder / "programs" / f"{name}.{end}").unlink(missing_ok=True)

    def _end_strays(self) -> None:
        """Kill what outlived a supervisord of ours that was killed: nobody else would ever end it."""
        mine = f"unix://{self._socket()}"
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("SUPERVISOR_SERVER_URL") == mine:
                    process.kill()
                    _wait_until_gone(process.pid)

    def _alive(self) -> bool:
        try:
            return self._call("getState")["statename"] == "RUNNING"
        except (OSError, http.client.HTTPException):
            return False

    def _call(self, method: str, *arguments):
        """One XML-RPC call on a connection of its own: the gateway may be used by several threads."""
        from supervisor.xmlrpc import SupervisorTransport

        transport = SupervisorTransport(serverurl=f"unix://{self._socket()}")
        with xmlrpc.client.ServerProxy("http://supervisord", transport) as server:
            return getattr(server.supervisor, method)(*arguments)

    def _link(self) -> Path:
        """Points to the socket when that lies elsewhere, whatever TMPDIR is when one looks for it."""
        return self.folder / "supervisor.link"

    def _socket(self) -> Path:
        near = self.folder / "supervisor.sock"
        if self._link().is_symlink():
            return self._link().readlink()
        if re.fullmatch(rf"[\w./+-]{{1,{MAX_SOCKET_PATH}}}", str(near), re.ASCII):
            return near
        digest = hashlib.sha256(f"{os.getuid()}:{near}".encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"seatrial-{digest}" / near.name

    def _prepared_socket(self) -> Path:
        socket = self._socket()
        if socket.parent != self.folder:
            socket.parent.mkdir(mode=0o700, exist_ok=True)
            if socket.parent.stat().st_uid != os.getuid():
                raise ServiceFailed("supervisord", f"cannot own {socket.parent}", self.log("supervisord"))
            self._link().unlink(missing_ok=True)
            self._link().symlink_to(socket)
        return socket

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """One program at a time changes what is supervised, so there are never two supervisors."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "supervisor.lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def tree_usage(pid: int) -> Usage:
    """What a process and all below it use. One that ends meanwhile does not count."""
    cpu_seconds, memory_bytes, descriptors = 0.0, 0, 0
    with suppress(psutil.NoSuchProcess):
        top = psutil.Process(pid)
        for process in [top, *top.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                cpu_seconds += times.user + times.system
                memory_bytes += process.memory_info().rss
                descriptors += process.num_fds()
    return Usage(cpu_seconds, memory_bytes, descriptors)


def _wait_until_gone(pid: int) -> None:
    """A process that nobody reaps has gone as well, so a zombie counts, but only when its threads have ended
    too: until then they hold its ports."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        while process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1:
            time.sleep(0.02)  # not a child of ours, so there is nothing to wait for but to look

"""What the access log has of a rollout: requests, failures and latencies of both arms."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.core.home import Home
from pipelines.core.rollout.counting import ArmTally, count
from pipelines.core.rollout.observation import ArmName
from pipelines.core.rollout.watch import Watch
from pipelines.gateways import access_log
from pipelines.gateways.tail import Tail

LOOK_BYTES = 32 * 2**20
"""Of the access log: 85,000 lines, about a quarter of a second, for which other rollouts wait."""


class LoggedRequests:
    """One step's requests in the access log, each line read once."""

    def __init__(self, home: Home, watch: Watch) -> None:
        self._watch, self._trouble = watch, ""
        self._tail = Tail(partial(_files, access_log.file(home), watch.span("stable")[0]))

    def add(self, tallies: Mapping[ArmName, ArmTally], now: float) -> set[ArmName]:
        """Count what is new; the arms of which all is counted."""
        self._trouble = ""
        try:
            for chunk in self._tail.chunks(LOOK_BYTES):
                self._count(chunk, tallies)
        except OSError as error:
            self._trouble = f"the access log can't be read: {error}"
            return set()
        if self._tail.is_behind:
            self._trouble = "the access log is still being read"
            return set()
        return set(tallies)

    def troubles(self) -> dict[str, str]:
        return {"access log": self._trouble}

    def _count(self, chunk: bytes, tallies: Mapping[ArmName, ArmTally]) -> None:
        watch = self._watch
        now = _lines(chunk, f'"{watch.label}"')
        ours = (line for line in now if line["route"] == watch.label)
        if watch.kind != "blue_green":
            return count(ours, watch.releases, tallies)
        count(ours, watch.releases, {"canary": tallies["canary"]})
        since, until = watch.span("stable")
        before = _lines(chunk, f":{watch.stable.release_id}@")
        meant = (line for line in before if since <= float(line["at"]) < until)
        then = ({**line, "arm": "stable"} for line in meant if _meant(line) == watch.stable.release_id)
        count(then, {watch.stable.release_id: "stable"}, {"stable": tallies["stable"]})


def _files(current: Path, since: float) -> list[Path]:
    """What was put aside since then, and what is written to now."""
    first = f"{current.stem}.{int(since * 1000):013d}"
    return [*(path for path in access_log.aside(current) if path.name >= first), current]


def _lines(chunk: bytes, mark: str) -> Iterator[dict[str, Any]]:
    """The lines in which the mark occurs; one that is damaged, by a full disk, is left out."""
    import orjson

    wanted = mark.encode()
    if wanted not in chunk:
        return
    for line in chunk.split(b"\n"):
        if wanted in line:
            try:
                yield orjson.loads(line)
            except orjson.JSONDecodeError:
                continue


def _meant(line: Mapping[str, Any]) -> str:
    """The release that a request was meant for, by the cluster: "stable:v3-0a@3001>v4-1b@3002:digest"."""
    return (line["cluster"] or "").partition(":")[2].partition("@")[0]

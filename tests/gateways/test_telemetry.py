"""Arms are counted from real files, real segments, real metrics and real SQL, each line and row once."""

import itertools
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bentos.manifest import Manifest, Plan
from bentos.settings import Settings
from bentos.watching.capture import Capture
from bentos.watching.metrics import Metrics
from bentos.work import Job
from pipelines.core.home import Home
from pipelines.core.rollout.answers import Answers
from pipelines.core.rollout.observation import Arm, Moments
from pipelines.core.rollout.plan import Kind
from pipelines.core.rollout.routes import Route, Target
from pipelines.core.rollout.watch import DAY_SECONDS, Measure, Watch
from pipelines.gateways import access_log, envoy_clusters, logged_requests, telemetry
from pipelines.gateways.envoy import Envoy
from pipelines.gateways.measures import MeasureFailed, job_of, moments
from pipelines.gateways.measuring import LATE_SECONDS
from pipelines.gateways.service_counts import EVERY_SECONDS
from pipelines.gateways.telemetry import LogTelemetry, Telemetry
from tests.bentos.tiny import CONTRACT, ROW
from tests.fakes.telemetry import FakeTelemetry
from tests.gateways.envoy_client import Client, free_port, serve
from tests.until import until

SINCE = 1_700_000_000.0
STABLE, CANARY = Target("v3", 3001), Target("v4", 3002)
WATCH = Watch("tiny", "canary", "tiny/17/0", STABLE, CANARY, SINCE)


@pytest.fixture
def home(tmp_path) -> Home:
    access_log.file(Home(tmp_path)).parent.mkdir(parents=True)
    access_log.file(Home(tmp_path)).touch()
    return Home(tmp_path)


def line(arm: str = "stable", **others) -> bytes:
    release = {"stable": "v3", "canary": "v4"}[arm]
    facts = dict.fromkeys(access_log.COLUMNS) | {
        **{"at": f"{SINCE + 1:.6f}", "route": WATCH.label, "arm": arm, "release": release, "status": 200},
        **{"cluster": f"{arm}:{release}@3001:0a1b", "flags": "-", "us": 1500, "attempts": 1},
        **{"user": "ann", "method": "POST", "path": "/tiny/predict"},
    }
    return json.dumps(facts | others).encode() + b"\n"


def write(home: Home, *lines: bytes) -> None:
    with access_log.file(home).open("ab") as file:
        file.writelines(lines)


def requests(home: Home | Telemetry, watch: Watch = WATCH, now: float = SINCE) -> list:
    """Requests and errors of stable and canary."""
    found = (LogTelemetry(home) if isinstance(home, Home) else home).look(watch, now)
    return [arm and (arm.requests, arm.errors) for arm in found]


def test_only_lines_of_the_step_are_counted(home):
    assert requests(home) == [(0, 0), (0, 0)]
    others = ({"route": "tiny/17/1"}, {"route": "tiny/17/00"}, {"route": None, "user": WATCH.label})
    write(home, line(), line("canary"), line("canary", status=502), *(line(**other) for other in others))
    write(home, b'{"route":"tiny/17/0", cut off by a full disk\n', line())
    assert requests(home) == [(2, 0), (2, 1)]


def test_a_log_that_grows_is_put_aside_and_is_cut_off_is_read_once(home):
    found, file = LogTelemetry(home), access_log.file(home)
    half = line("canary")
    write(home, line(), half[:40])
    assert requests(found) == requests(found) == [(1, 0), (0, 0)]
    access_log.put_aside(file, SINCE + 2)
    assert requests(found) == [None, None] and "can't be read" in found.troubles("tiny")["access log"]
    (aside,) = access_log.aside(file)
    with aside.open("ab") as late:  # the router has not noticed yet
        late.write(half[40:] + line())
    write(home, line("canary"))
    assert requests(found) == [(2, 0), (2, 0)] and found.troubles("tiny") == {}
    file.write_bytes(line("canary", status=500)[:-1])
    assert requests(found) == [(2, 0), (2, 0)]
    write(home, b"\n", line())
    assert requests(found) == [(3, 0), (3, 1)]


def test_who_starts_again_reads_all_since_the_step_began(home):
    file = access_log.file(home)
    for aside_at in (SINCE - 1, SINCE + 1, SINCE + 2):
        write(home, line(), line("canary"))
        access_log.put_aside(file, aside_at)
    write(home, line())
    assert requests(home) == [(3, 0), (2, 0)]


def test_another_file_with_the_same_inode_is_read_from_its_beginning(home):
    found, file = LogTelemetry(home), access_log.file(home)
    write(home, line())
    assert requests(found) == [(1, 0), (0, 0)]
    file.write_bytes(line("canary") + line("canary"))
    assert requests(found) == [(1, 0), (2, 0)]


def test_what_is_half_read_is_not_known(home, monkeypatch):
    monkeypatch.setattr(logged_requests, "LOOK_BYTES", 1)
    for at in (SINCE + 1, SINCE + 2):
        write(home, line())
        access_log.put_aside(access_log.file(home), at)
    write(home, line())
    found = LogTelemetry(home)
    assert [requests(found) for _ in range(4)] == [[None, None]] * 3 + [[(3, 0), (0, 0)]]


def test_after_a_flip_stable_is_what_it_was_before(home):
    flipped = replace(WATCH, kind="blue_green", label="tiny/17/1")
    before, own = {"at": f"{SINCE - 5:.6f}", "route": "tiny/9/0"}, {"release": None, "status": 503}
    write(home, line(**before), line(**before, **own), line(**{**before, "at": str(SINCE - DAY_SECONDS - 1)}))
    write(
        home,
        line("canary", **before, release="v3", cluster="canary:v3@1>v2@2:0a"),
        line(**before, forced="stable"),
    )
    write(home, line(**before, cluster="stable:v2@1>v3@2:0a", attempts=2))  # it stood in for another one
    write(home, line(), line("canary", route="tiny/17/1"), line("canary", route="tiny/17/1", status=500))
    assert requests(home, flipped) == [(3, 1), (2, 1)]


def test_the_router_s_clusters_say_for_whom_a_request_was_meant():
    route = Route(Target("v3-0a", 1), Target("v4-1b", 2), weight=0.5)
    meant = {logged_requests._meant({"cluster": name}) for name in envoy_clusters.clusters({"/tiny": route})}
    assert meant == {"v3-0a", "v4-1b"} and logged_requests._meant({"cluster": None}) == ""


@pytest.mark.e2e
def test_what_a_real_router_writes_is_counted(tmp_path, processes):
    """Half of ten users are tried, then all are moved and meet errors, then the next release breaks off."""
    envoy, (v3, v4) = Envoy(Home(tmp_path), processes, free_port()), serve(processes, "v3", "v4")
    (v5,) = serve(processes, "v5", mode="fragile")
    envoy.ensure()
    client, found = Client(envoy.address), LogTelemetry(Home(tmp_path))

    def step(kind: Kind, number: int, stable: Target, canary: Target, query: str = "") -> tuple[Watch, list]:
        watch = Watch("tiny", kind, f"tiny/{number}/0", stable, canary, time.time())
        weight = 1.0 if kind == "blue_green" else 0.5
        envoy.route({"/tiny": Route(stable, canary, weight=weight, salt="tiny", label=watch.label)})
        answers = [client.ask(f"/tiny{query}", b"rows", x_user_id=f"user-{user}") for user in range(10)]
        client.ask("/tiny", b"rows", x_release="stable")
        client.ask("/tiny?status=404", b"rows")
        client.ask("/tiny")
        return watch, [answer.release for answer in answers]

    watch, releases = step("canary", 1, v3, v4)
    tried = releases.count("v4")
    until(lambda: requests(found, watch) == [(10 - tried, 0), (tried, 0)])
    watch, releases = step("blue_green", 2, v3, v4, "?status=500")
    assert releases == ["v4"] * 10
    until(lambda: requests(found, watch) == [(10 - tried, 0), (10, 10)])
    watch, releases = step("canary", 3, v4, v5)
    assert releases == ["v4"] * 10
    stable, canary = until(lambda: (seen := requests(found, watch))[1] != (0, 0) and seen)
    assert 0 < canary[0] == canary[1] and stable[1] == 0


def answer(home: Home, release: str, scores: list[float], users: tuple = (), age: float = 0.0) -> None:
    """One segment that a service of this release wrote; each score is a request of two rows."""
    manifest = Manifest("tiny", "3", release, "fp32", "", CONTRACT, Plan())
    capture = Capture(Settings(capture_folder=home.prediction_log("tiny")), manifest, Metrics())
    arrived = time.monotonic() - age
    for at, score in enumerate(scores):
        head = {b"x-user-id": users[at].encode()} if users else None
        outputs = {"probability": np.array([score, 0.99], "float32")}
        name = f"{release}-{at}"
        capture.offer(
            Job(lambda job: None, 2, 0, arrived, [ROW] * 2, outputs=outputs, request_id=name, trace=head)
        )
    capture.close()


JUDGED = replace(WATCH, answers=Answers("probability", (0.25, 0.5)))


def test_answers_are_counted_by_release_each_segment_once(home):
    found, now = LogTelemetry(home), time.time()
    watch = replace(JUDGED, since=now - 60)
    assert [arm and arm.predictions for arm in found.look(watch, now)] == [(), ()]
    answer(home, "v3", [0.1, 0.3, 0.3, np.nan])
    answer(home, "v4", [0.9], age=100)
    answer(home, "v2", [0.9])
    for _ in range(2):
        assert [arm and arm.predictions for arm in found.look(watch, now)] == [[1, 2, 0], ()]
    answer(home, "v4", [0.9, 0.9])
    (home.prediction_log("tiny") / "predictions-20991231T000000.000000Z-0a.parquet").write_text("no Parquet")
    for again in (found, LogTelemetry(home)):
        assert [arm and arm.predictions for arm in again.look(watch, now)] == [[1, 2, 0], [0, 0, 2]]
        assert "20991231" in again.troubles("tiny")["prediction log"]


def test_answers_that_are_half_read_are_not_known(home, monkeypatch):
    monkeypatch.setattr(telemetry, "LOOK_SEGMENTS", 1)
    for release in ("v3", "v4"):
        answer(home, release, [0.1])
    found, watch = LogTelemetry(home), replace(JUDGED, since=time.time() - 60)
    seen = [[arm and arm.predictions for arm in found.look(watch, 0)] for _ in range(2)]
    assert seen == [[(), ()], [[1, 0, 0], [1, 0, 0]]]


class Service(ThreadingHTTPServer):
    """A service's /metrics, as its own code writes them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Page)
        self.metrics, self.status = Metrics(), 200
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}).start()

    def answered(self, *outcomes) -> None:
        for outcome in outcomes:
            self.metrics.request("predict", outcome, 0.001)


def test_a_shadow_is_counted_by_what_services_say(home, shadowed):
    one, other = shadowed
    one.answered("ok", "shed")  # before the step
    stable, canary = replace(STABLE, port=one.server_port), replace(CANARY, port=other.server_port)
    watch = replace(WATCH, kind="shadow", since=time.time() - 60, stable=stable, canary=canary)
    found, looks = LogTelemetry(home), itertools.count()

    def seen() -> list:
        return requests(found, watch, next(looks) * EVERY_SECONDS)

    assert seen() == [(0, 0), (0, 0)]
    one.answered("ok", "ok", "client_error")
    other.answered("ok", "model_error", "infrastructure", "shed")
    assert seen() == [(2, 0), (4, 3)]
    other.metrics = Metrics()  # it was started again
    other.answered("ok")
    assert seen() == [(2, 0), (5, 3)]
    other.status = 503
    assert seen() == [(2, 0), None] and "503" in found.troubles("tiny")["metrics of canary"]
    other.status = 200
    answer(home, "v4", [0.1, 0.2], age=2.0)
    unmirrored, copied = found.look(watch, next(looks) * EVERY_SECONDS)
    assert unmirrored and copied and (copied.requests, copied.latencies[-1][1]) == (5, 2)
    assert [count for end, count in copied.latencies if end < 2000][-1] == 0 == unmirrored.latencies[-1][1]


class Page(BaseHTTPRequestHandler):
    server: Service

    def do_GET(self) -> None:
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(self.server.metrics.render())

    def log_message(self, *_: object) -> None:
        """Not in the output of tests."""


@pytest.fixture
def shadowed() -> Iterator[tuple[Service, Service]]:
    services = Service(), Service()
    yield services
    for service in services:
        service.shutdown()
        service.server_close()


@pytest.fixture
def labelled(home) -> Home:
    answer(home, "v3", [0.1, 0.2, 0.3], users=("ann", "ben", "ann"))
    answer(home, "v4", [0.4, 0.6], users=("cem", "dan"))
    answer(home, "v4", [0.9], users=("eve",), age=1000)
    (home.root / "labels").mkdir()
    (home.root / "labels" / "1.csv").write_text("request_id,late\nv3-0,1\nv3-1,0\nv4-0,1\n")
    pq.write_table(pa.table({"request_id": ["v4-1"], "late": [np.nan]}), home.root / "labels" / "2.parquet")
    return home


def told(home: Home, users_file: Path | None = None, **how) -> dict[str, Moments]:
    watch = replace(WATCH, since=time.time() - 60)
    return moments(job_of(Measure("late", **how), watch.model, watch.spans, home, users_file))


FIRST = "SELECT release_id, output_probability AS value FROM predictions WHERE row = 0"


def test_sql_sees_predictions_and_labels(labelled):
    found = told(labelled, sql=FIRST)
    assert {release: each.count for release, each in found.items()} == {"v3": 3, "v4": 2}
    assert (found["v4"].total, found["v4"].squares) == pytest.approx((1.0, 0.52))
    joined = (
        "SELECT release_id, late AS value FROM predictions LEFT JOIN seen USING (request_id) WHERE row = 0"
    )
    found = told(labelled, sql=joined, files={"seen": "labels/*.csv"})
    assert found == {"v3": Moments(2, 1, 1), "v4": Moments(1, 1, 1)}


def test_where_there_is_a_column_user_users_are_counted(labelled, tmp_path):
    """ann asked twice; one more request has no user."""
    answer(labelled, "v3", [0.9])
    by_user = FIRST.replace("release_id,", 'release_id, "user",')
    found = told(labelled, tmp_path / "users.parquet", sql=by_user)
    assert {release: (each.count, each.total) for release, each in found.items()} == {
        "v3": (2, pytest.approx(0.4)),
        "v4": (2, pytest.approx(1.0)),
    }
    values = pq.read_table(tmp_path / "users.parquet").to_pandas().set_index("user")["value"]
    assert values.to_dict() == pytest.approx({"ann": 0.2, "ben": 0.2, "cem": 0.4, "dan": 0.6})
    assert told(labelled, sql=by_user.replace('"user"', 'row AS "user"'))["v3"].count == 1, "or by number"
    told(labelled, tmp_path / "none.parquet", sql=FIRST)
    assert not (tmp_path / "none.parquet").exists()


def summed(tables):
    frame = tables["predictions"].df()
    frame["value"] = frame.output_probability
    sums = frame[frame.row == 0].groupby("release_id").value.agg(["count", "sum"])
    return sums.assign(total=sums["sum"], squares=0.0).reset_index()


def as_arrow(tables):
    return tables["predictions"].project("release_id, 1.0 as value").to_arrow_table()


def related(tables):
    return tables["predictions"].project("release_id, 2.0 as value")


@pytest.mark.parametrize(
    ("function", "found"), [(summed, (2, 1.0, 0.0)), (as_arrow, (4, 4, 4)), (related, (4, 8, 16))]
)
def test_a_function_gives_back_any_table(labelled, function, found):
    seen = told(labelled, function=f"{__name__}:{function.__name__}")["v4"]
    assert (seen.count, seen.total, seen.squares) == pytest.approx(found)


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("SELEC", "DuckDB refuses late: Parser Error"),
        ("SELECT 1 AS one", "late has the columns one, and release_id and value"),
        ("SELECT release_id, nothing AS value FROM predictions", "DuckDB refuses late"),
        ("SELECT release_id, output_probability / 0 AS value FROM predictions", "NaN or infinite"),
        ("SELECT release_id, 'x' AS value FROM predictions", "DuckDB refuses late"),
        ("SELECT 1; DROP VIEW predictions", "one SELECT, and this is SELECT and DROP"),
        ("SELECT 'v3' AS release_id, content AS value FROM read_text('/etc/hostname')", "Permission Error"),
        ("SELECT release_id, late AS value FROM predictions JOIN seen USING (request_id)", "seen"),
    ],
)
def test_what_cannot_be_told_is_said_in_a_sentence(labelled, sql, said):
    with pytest.raises(MeasureFailed, match=said):
        told(labelled, sql=sql)


def test_nan_is_no_value_and_no_predictions_no_metric(labelled):
    with pytest.raises(MeasureFailed, match="values of v4 that are NaN"):
        told(
            labelled,
            sql="SELECT release_id, late AS value FROM predictions JOIN seen USING (request_id)",
            files={"seen": "labels/*.parquet"},
        )
    with pytest.raises(MeasureFailed, match="nothing in the prediction log"):
        told(Home(labelled.root / "elsewhere"), sql=FIRST)
    assert told(labelled, sql=f"{FIRST} AND false") == {}


def taken(found: LogTelemetry, watch: Watch, said, now: float = SINCE) -> tuple[Arm | None, Arm | None]:
    """Metrics are taken by processes, which tell nobody when they are done."""
    while not said(arms := found.look(watch, now)):
        time.sleep(0.02)
    return arms


def test_metrics_come_by_and_by_and_a_function_that_fails_stops_nothing(labelled):
    measures = Measure("score", FIRST), Measure("amount", function="builtins:print")
    found, watch = LogTelemetry(labelled), replace(WATCH, since=time.time() - 60, measures=measures)
    _, canary = taken(found, watch, lambda arms: arms[1].metrics and "amount" in found.troubles("tiny"))
    assert canary and canary.metrics.keys() == {"score"} and canary.metrics["score"].count == 2
    (trouble,) = found.troubles("tiny").values()
    assert trouble.startswith("amount raised ") and "NoneType" in trouble
    for segment in labelled.prediction_log("tiny").iterdir():
        segment.unlink()
    _, canary = found.look(watch, SINCE + 29)
    assert canary and canary.metrics
    _, canary = taken(found, watch, lambda arms: "score" in found.troubles("tiny"), SINCE + 31)
    assert canary and canary.metrics == {}
    found.forget("tiny")
    assert found.troubles("tiny") == {}


def test_a_query_without_end_is_ended(labelled):
    endless = "SELECT release_id, sum(range) AS value FROM predictions, range(1000000000000) GROUP BY ALL"
    found, watch = LogTelemetry(labelled), replace(WATCH, since=0, measures=(Measure("sum", endless),))
    for seconds in (0, 1, LATE_SECONDS + 1):
        found.look(watch, SINCE + seconds)
    assert found.troubles("tiny") == {"sum": "sum takes longer than 300 seconds"}


def test_a_metric_that_knows_less_than_before_is_not_known(labelled):
    found, watch = LogTelemetry(labelled), replace(WATCH, since=0, measures=(Measure("score", FIRST),))
    taken(found, watch, lambda arms: arms[1].metrics)
    min(labelled.prediction_log("tiny").iterdir()).unlink()
    taken(found, watch, lambda arms: found.troubles("tiny"), SINCE + 31)
    assert found.troubles("tiny") == {"score": "score is known of fewer than before in v3"}


def test_a_fake_is_looked_at_in_the_same_way():
    one, other = Arm(10, 0), Arm(1, 1)
    found: Telemetry = FakeTelemetry({"tiny": [(one, other), (one, None)]})
    assert [found.look(WATCH, SINCE) for _ in range(3)] == [(one, other), (one, None), (one, None)]
    assert found.look(replace(WATCH, model="none"), SINCE) == (None, None)
    assert found.troubles("tiny") == {}
    found.forget("tiny")

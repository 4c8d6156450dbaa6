"""Who gets which release, and what happens to those who were to get one that dies."""

import os
import re
import signal
import socket
import threading
from dataclasses import replace

import pytest

from pipelines.core.rollout.routes import Limits, Route
from pipelines.gateways.envoy import Envoy
from tests.fakes.processes import FakeProcesses
from tests.gateways.envoy_client import Client, answer, launch, load, seen, serve
from tests.until import until

pytestmark = pytest.mark.e2e


def releases(envoy: Envoy, users: range, **headers: str) -> dict[int, str]:
    return dict(
        zip(users, asked(envoy, [{"x-user-id": f"user-{user}", **headers} for user in users]), strict=True)
    )


def asked(envoy: Envoy, requests: list[dict[str, str]]) -> list[str]:
    """The releases that answer, all asked over one connection without waiting."""
    sent = ("\r\n".join([*(f"{name}: {value}" for name, value in each.items()), "\r\n"]) for each in requests)
    found = b""
    with socket.create_connection(("127.0.0.1", envoy.port), timeout=30) as connection:
        connection.sendall("".join(f"GET / HTTP/1.1\r\nhost: here\r\n{each}" for each in sent).encode())
        while len(releases := re.findall(rb"x-release-id: (\w+)\r\n", found)) < len(requests):
            found += connection.recv(2**20) or pytest.fail("the connection was closed")
    return [release.decode() for release in releases]


def test_users_stay_with_the_canary_as_its_weight_grows(envoy, pair):
    """Each share is within four standard deviations of its weight, at most."""
    route, had = Route(*pair, salt="churn/17"), set()
    for weight in (0.1, 0.2, 0.5, 1.0):
        envoy.route({"/": replace(route, weight=weight)})
        found = releases(envoy, range(2000))
        have = {user for user, release in found.items() if release == "new"}
        assert had <= have
        assert abs(len(have) / 2000 - weight) < 4 * (weight * (1 - weight) / 2000) ** 0.5 + 1e-9
        had = have


def test_another_salt_is_another_draw(envoy, pair):
    found = []
    for salt in ("churn/17", "churn/18", r"\1\\"):
        envoy.route({"/": Route(*pair, weight=0.5, salt=salt)})
        found.append(releases(envoy, range(300)))
    for one, other in ((0, 1), (0, 2), (1, 2)):
        same = sum(found[one][user] == found[other][user] for user in range(300))
        assert 150 - 45 < same < 150 + 45


def test_nobody_in_particular_is_placed_at_random(envoy, pair):
    envoy.route({"/": Route(*pair, weight=0.3)})
    found = asked(envoy, [{}] * 1000)
    assert abs(found.count("new") / 1000 - 0.3) < 0.06


def test_a_header_forces_an_arm(envoy, pair):
    for weight in (0.0, 1.0):
        envoy.route({"/": Route(*pair, weight=weight)})
        assert set(releases(envoy, range(20), **{"x-release": "canary"}).values()) == {"new"}
        assert set(releases(envoy, range(20), **{"x-release": "stable"}).values()) == {"old"}
    envoy.route({"/": Route(pair[0])})
    assert set(releases(envoy, range(5), **{"x-release": "canary"}).values()) == {"old"}


def test_a_copy_goes_to_the_canary(envoy, pair):
    envoy.route({"/": Route(*pair, mirrored=1.0)})
    client, ids = Client(envoy.address), {f"copied-{each}" for each in range(50)}
    assert {client.ask("/", b"rows", x_request_id=each).release for each in ids} == {"old"}
    until(lambda: ids <= set(seen(pair[1])))
    client.ask("/", x_request_id="forced", x_release="stable")
    envoy.route({"/": Route(*pair, mirrored=0.2)})
    for each in range(500):
        client.ask("/", x_request_id=f"fifth-{each}")
    envoy.route({"/": Route(pair[0])})
    until(lambda: not envoy.in_flight(pair[1]))
    copied = sum(each.startswith("fifth-") for each in seen(pair[1]))
    assert 60 < copied < 140
    assert "forced" not in seen(pair[1])


def test_a_slow_or_dead_shadow_costs_nobody_anything(envoy, processes, pair):
    (slow,) = serve(processes, "slow", mode="slow")
    envoy.route({"/": Route(pair[0], slow, mirrored=1.0)})
    with load(envoy.address, clients=2) as answers:
        until(lambda: len(answers) > 100)
        until(lambda: envoy.in_flight(slow) > 100)
        kill(processes, "slow")
        before = len(answers)
        until(lambda: len(answers) > before + 100)
    assert {(found.status, found.release) for found in answers if found} == {(200, "old")}
    assert None not in answers
    envoy.route({"/": Route(pair[0])})


def test_a_canary_that_is_killed_costs_no_request(envoy, processes, pair):
    (canary,) = serve(processes, "doomed")
    envoy.route({"/": Route(pair[0], canary, weight=1.0)})
    with load(f"{envoy.address}/?seconds=0.02") as answers:
        until(lambda: len(answers) > 20)
        kill(processes, "doomed")
        until(lambda: not envoy.healthy(canary))
        before = len(answers)
        until(lambda: len(answers) > before + 100)
    assert None not in answers
    assert {found.status for found in answers if found} == {200}
    assert {found.release for found in answers[:20] if found} == {"doomed"}
    assert {found.release for found in answers[-50:] if found} == {"old"}
    envoy.route({"/": Route(pair[0])})


@pytest.mark.parametrize("helped_by", ["nobody", "standby", "canary"])
def test_a_stable_that_is_killed_and_restarted_costs_no_request(envoy, processes, pair, helped_by):
    (stable,) = serve(processes, "first")
    canary, standby = ({helped_by: pair[1]}.get(name) for name in ("canary", "standby"))
    envoy.route({"/": Route(stable, canary, standby, weight=0.1 if canary else 0.0)})
    with load(f"{envoy.address}/?seconds=0.02") as answers:
        until(lambda: len(answers) > 20)
        kill(processes, "first")
        if helped_by != "nobody":
            before = len(answers)
            until(lambda: len(answers) > before + 50)
            assert {found.release for found in answers[-10:] if found} == {"new"}
        launch(processes, stable)
        until(lambda: envoy.healthy(stable))
        until(lambda: "first" in {found.release for found in answers[-20:] if found})
    assert None not in answers
    assert {found.status for found in answers if found} == {200}
    envoy.route({"/": Route(pair[0])})


def test_a_request_that_waits_for_another_try_outlives_its_route(envoy, processes, pair):
    (stable,) = serve(processes, "gone")
    envoy.route({"/": Route(stable)})
    kill(processes, "gone")
    answers = []
    asking = threading.Thread(target=lambda: answers.append(answer(f"{envoy.address}/")))
    asking.start()
    until(lambda: envoy.admin.busy())
    envoy.route({"/": Route(pair[0])})
    launch(processes, stable)
    asking.join()
    assert [(each.status, each.release) for each in answers] == [(200, "gone")]
    envoy.route({})
    assert {host.port for hosts in envoy.admin.hosts().values() for host in hosts} == {pair[0].port}


def test_a_large_request_is_tried_again_whole(envoy, processes, pair):
    (canary,) = serve(processes, "fragile", mode="fragile")
    envoy.route({"/": Route(pair[0], canary, weight=1.0)})
    size = Limits().max_body_bytes
    found = answer(f"{envoy.address}/", b"x" * size)
    assert found and (found.status, found.release, found.headers["x-received"]) == (200, "old", str(size))


def kill(processes: FakeProcesses, name: str) -> None:
    child = processes.children[f"service-{name}"]
    os.kill(child.pid, signal.SIGKILL)
    child.wait()

"""The sensor starts one release for each new version and each move of the alias, and never a second one."""

import dagster as dg
import pytest

from tests.assets.world import World

SENSOR, JOB = "tiny_registry", "tiny_release"


@pytest.fixture
def world(tmp_path) -> World:
    """Versions 1 and 2 are registered, and the alias points to 2."""
    world = World(tmp_path)
    world.register(), world.register()
    world.registry.set_alias("tiny", "candidate", "2")
    return world


def look(world: World, cursor: str | None = None) -> dg.SensorResult | dg.SkipReason:
    sensor = world.definitions.get_sensor_def(SENSOR)
    with dg.build_sensor_context(
        instance=world.instance, cursor=cursor, resources={"registry": world.registry}
    ) as context:
        return sensor(context)


def requested(result) -> list[str | None]:
    """The versions it asks a run for; each must become a partition, too."""
    versions = [request.partition_key for request in result.run_requests]
    added = [key for request in result.dynamic_partitions_requests for key in request.partition_keys]
    assert added == versions
    return versions


def start_run(world: World, version: str) -> None:
    """A run of the version's release, as the daemon or a person starts it."""
    job = world.definitions.resolve_job_def(JOB)
    world.instance.create_run_for_job(job, tags={"dagster/partition": version})


def test_the_first_look_releases_what_the_alias_points_to(world):
    result = look(world)
    assert requested(result) == ["2"]
    assert [request.run_key for request in result.run_requests] == ["tiny:2"]
    [request] = result.dynamic_partitions_requests
    assert request.partitions_def_name == "tiny_versions"


def test_nothing_new_is_nothing_to_release(world):
    assert requested(look(world, look(world).cursor)) == []


def test_a_new_version_is_released_once(world):
    cursor = look(world).cursor
    assert world.register() == "3"
    result = look(world, cursor)
    assert requested(result) == ["3"]
    start_run(world, "3")
    assert requested(look(world, result.cursor)) == []
    world.registry.set_alias("tiny", "candidate", "3")
    assert requested(look(world, result.cursor)) == []


def test_a_moved_alias_is_released_once(world):
    cursor = look(world).cursor
    world.registry.set_alias("tiny", "candidate", "1")
    assert requested(look(world, cursor)) == ["1"]
    start_run(world, "1")
    assert requested(look(world, cursor)) == []


def test_a_lost_cursor_releases_nothing_again(world):
    start_run(world, "2")
    assert requested(look(world)) == []


def test_a_missing_alias_is_a_sentence(tmp_path):
    world = World(tmp_path)
    world.register()
    skipped = look(world)
    assert isinstance(skipped, dg.SkipReason)
    assert "There is no tiny@candidate in the model registry; set the alias with" in skipped.skip_message


def test_an_unreachable_registry_is_a_sentence(world):
    world.registry.reachable = False
    skipped = look(world)
    assert isinstance(skipped, dg.SkipReason) and "check MLFLOW_TRACKING_URI" in skipped.skip_message

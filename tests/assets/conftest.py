"""A fresh installation for each test."""

import pytest

from tests.assets.world import World


@pytest.fixture
def world(tmp_path) -> World:
    return World(tmp_path)

"""What the tests of moves share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from storage import places
from tests.conftest import MigratedDatabase
from tests.integration.partitions.moving_world import World, opened


@pytest.fixture
def short_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process ask soon where tenants live."""
    monkeypatch.setattr(places, "REMEMBER_SECONDS", 0.3)


@pytest.fixture(scope="module")
def world(database: MigratedDatabase) -> Iterator[World]:
    with opened(database) as made:
        yield made

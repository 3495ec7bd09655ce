"""What the tests of places share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from storage import places
from storage.database import Database
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


@pytest.fixture(scope="module")
def owner(database: MigratedDatabase) -> Iterator[Database]:
    """The platform's database as its owner."""
    with closing(Database(database.owner_url)) as owner:
        owner.vault = database.vault
        yield owner

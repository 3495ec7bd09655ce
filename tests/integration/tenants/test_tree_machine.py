"""A tree of tenants against a plain model of it: who sees which rows, and who may act where.

Hypothesis makes, moves, suspends and closes tenants, grants and takes back subtrees, writes rows
and tries to get at those of others. After each step the database must say what the model says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from storage import tenant_tree
from storage.database import Database
from storage.tenancy import Tenant
from storage.tenant_tree import NotInTree
from storage.tenants import lifecycle
from tests.unit.storage.tenants.conftest import add_member

MakePlacedTenant = Callable[..., Tenant]
MOST_TENANTS = 7
PERIODS = {
    "now": (None, None),
    "past": (timedelta(hours=-2), timedelta(hours=-1)),
    "future": (timedelta(hours=1), timedelta(hours=2)),
}


@dataclass
class Granted:
    """A grant as the model knows it."""

    home: UUID
    root: UUID
    level: str
    is_in_force: bool


@dataclass
class Known:
    """A tenant as the model knows it."""

    parent: UUID | None
    user: UUID
    status: str = "ACTIVE"
    rows: set[UUID] = field(default_factory=set)


class Tree(RuleBasedStateMachine):
    """`database` and `make` are given by the test."""

    database: Database
    make: MakePlacedTenant
    places: tuple[str, ...]

    tenants: Bundle[UUID] = Bundle("tenants")
    grants: Bundle[UUID] = Bundle("grants")

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[UUID, Known] = {}
        self.granted: dict[UUID, Granted] = {}

    # -- the model --------------------------------------------------------------------------

    def above(self, tenant: UUID) -> list[UUID]:
        found = []
        at = self.known[tenant].parent
        while at is not None:
            found.append(at)
            at = self.known[at].parent
        return found

    def level(self, home: UUID, target: UUID) -> str | None:
        """What the user of `home` may do in `target`."""
        if self.known[target].status == "CLOSED":
            return None
        if home == target:
            return "MEMBER"
        if self.known[home].status != "ACTIVE":
            return None
        levels = {
            one.level
            for one in self.granted.values()
            if one.home == home
            and one.is_in_force
            and home in self.above(one.root)
            and (target == one.root or one.root in self.above(target))
        }
        return "MANAGE" if "MANAGE" in levels else "READ" if levels else None

    # -- steps ------------------------------------------------------------------------------

    @initialize(target=tenants)
    def root(self) -> UUID:
        return self._new(None)

    @precondition(lambda self: len(self.known) < MOST_TENANTS)
    @rule(target=tenants, parent=st.one_of(st.none(), tenants))
    def new_tenant(self, parent: UUID | None) -> UUID:
        return self._new(parent)

    def _new(self, parent: UUID | None) -> UUID:
        place = self.places[len(self.known) % len(self.places)]
        above = None if parent is None else Tenant(parent, "", "", None, "ACTIVE", "ROW_LEVEL")
        made = type(self).make(f"m{uuid4().hex[:12]}", None, place, above)
        with self.database.connection(made.id) as connection:
            user = add_member(connection, made.id)
        self.known[made.id] = Known(parent, user)
        return made.id

    @rule(tenant=tenants, parent=st.one_of(st.none(), tenants))
    def move(self, tenant: UUID, parent: UUID | None) -> None:
        makes_a_circle = parent is not None and (parent == tenant or tenant in self.above(parent))
        if makes_a_circle:
            with pytest.raises(NotInTree):
                tenant_tree.place_below(self.database, tenant, parent)
            return
        tenant_tree.place_below(self.database, tenant, parent)
        self.known[tenant].parent = parent

    @rule(tenant=tenants, step=st.sampled_from(["suspend", "resume", "close"]))
    def live(self, tenant: UUID, step: str) -> None:
        known = self.known[tenant]
        after = {"suspend": "SUSPENDED", "resume": "ACTIVE", "close": "CLOSED"}[step]
        before = {"SUSPENDED": ("ACTIVE",), "ACTIVE": ("SUSPENDED", "CLOSED")}
        change = getattr(lifecycle, step)
        if known.status not in before.get(after, ("ACTIVE", "SUSPENDED")):
            with pytest.raises(lifecycle.WrongState):
                change(self.database, tenant, "model")
            return
        change(self.database, tenant, "model")
        known.status = after

    @rule(
        target=grants,
        home=tenants,
        root=tenants,
        level=st.sampled_from(tenant_tree.GRANT_LEVELS),
        period=st.sampled_from(sorted(PERIODS)),
    )
    def grant(self, home: UUID, root: UUID, level: str, period: str) -> UUID:
        now = datetime.now(UTC)
        start, end = (None if delta is None else now + delta for delta in PERIODS[period])
        values: dict[str, Any] = {"valid_from": start, "valid_until": end}
        values["user_id"] = self.known[home].user
        if home not in self.above(root):
            with pytest.raises(NotInTree):
                tenant_tree.grant(self.database, home, root, level, **values)
            return UUID(int=0)
        made = tenant_tree.grant(self.database, home, root, level, **values)
        self.granted[made] = Granted(home, root, level, is_in_force=period == "now")
        return made

    @rule(grant=grants)
    def take_back(self, grant: UUID) -> None:
        one = self.granted.get(grant)
        if one is not None and one.is_in_force:
            tenant_tree.revoke(self.database, one.home, grant)
            one.is_in_force = False

    @rule(tenant=tenants)
    def write(self, tenant: UUID) -> None:
        with self.database.connection(tenant) as connection:
            row = connection.execute(
                "INSERT INTO patients (tenant_id, last_name) VALUES (%s, 'Ko') RETURNING id",
                (tenant,),
            ).fetchone()
        assert row is not None
        self.known[tenant].rows.add(row[0])

    @rule(thief=tenants, owner=tenants)
    def steal(self, thief: UUID, owner: UUID) -> None:
        wanted = list(self.known[owner].rows)
        if thief == owner or not wanted:
            return
        with self.database.connection(thief) as connection:
            changed = connection.execute(
                "UPDATE patients SET last_name = 'Taken' WHERE id = ANY (%s)", (wanted,)
            ).rowcount
            gone = connection.execute(
                "DELETE FROM patients WHERE id = ANY (%s)", (wanted,)
            ).rowcount
        assert (changed, gone) == (0, 0)

    # -- what must hold ---------------------------------------------------------------------

    @invariant()
    def everybody_sees_their_own_rows_and_no_others(self) -> None:
        for tenant, known in self.known.items():
            with self.database.connection(tenant) as connection:
                # Without the tenant in the statement: one lock of three has to do.
                seen = {row[0] for row in connection.execute("SELECT id FROM patients")}
            assert seen == known.rows

    @invariant()
    def rights_in_other_tenants_are_those_of_the_model(self) -> None:
        for home, known in self.known.items():
            wanted = {
                target: level
                for target in self.known
                if (level := self.level(home, target)) is not None
            }
            with self.database.connection(home) as connection:
                readable = tenant_tree.readable_tenants(connection, known.user, home)
            assert {one.id: one.level for one in readable} == wanted


@pytest.mark.parametrize(
    "places", [("ROW_LEVEL",), ("ROW_LEVEL", "SCHEMA")], ids=["rows", "rows-and-schemas"]
)
def test_a_tree_of_tenants_is_what_the_model_says(
    database: Database, placed_tenant: MakePlacedTenant, places: tuple[str, ...]
) -> None:
    machine = type(
        "TreeOfThisDatabase",
        (Tree,),
        {"database": database, "make": staticmethod(placed_tenant), "places": places},
    )
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=15 if len(places) == 1 else 3,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )

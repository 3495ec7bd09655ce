"""What an organization gives names to: read, made, replaced and forgotten by the name.

One shape for every kind: lists in pages, an ETag to change by, one audit row a call (desk.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar
from uuid import UUID

from fastapi import Response
from pydantic import BaseModel

from interop.administration.desk import Desk
from interop.administration.paging import Page, page_of
from interop.administration.versions import require_match, tag
from interop.errors import Conflict, NotFound
from storage.database import Connection
from storage.tenants.changes import Actor


class HasName(Protocol):
    """What has a name."""

    @property
    def name(self) -> str: ...


Thing = TypeVar("Thing", bound=HasName)
Shown = TypeVar("Shown", bound=BaseModel)
Put = Callable[[Connection, str], Thing]


@dataclass(frozen=True, slots=True)
class Named(Generic[Thing, Shown]):
    """One kind: what the audit trail and a person call it, who reads it, and how it is shown."""

    what: str
    noun: str
    list_all: Callable[[Connection, UUID], Iterable[Thing]]
    find: Callable[[Connection, UUID, str], Thing | None]
    remove: Callable[[Connection, UUID, str, Actor], Thing]
    show: Callable[[Thing], Shown]

    def page(self, desk: Desk, after: str | None, limit: int) -> Page[Shown]:
        """A page of all, by name."""
        found = desk.read(lambda connection: self.list_all(connection, desk.tenant.id), self.what)
        return page_of(found, after, limit, str, lambda one: one.name, self.show)

    def one(self, desk: Desk, name: str, response: Response) -> Shown:
        """The one of this name. Raises NotFound."""
        found = desk.read(lambda connection: self._known(desk, connection, name), self.what)
        tag(response, found)
        return found

    def make(self, desk: Desk, name: str, put: Put[Thing], response: Response) -> Shown:
        """A new one. Raises Conflict for a name that is taken."""

        def work(connection: Connection) -> Shown:
            if self.find(connection, desk.tenant.id, name) is not None:
                raise Conflict(f"there is a {self.noun} {name!r} already")
            return self.show(put(connection, name))

        made = desk.change(work, self.what)
        tag(response, made)
        return made

    def replace(
        self, desk: Desk, name: str, if_match: str | None, put: Put[Thing], response: Response
    ) -> Shown:
        """Another in its place, by who has seen it as it is. Raises NotFound."""

        def work(connection: Connection) -> Shown:
            require_match(if_match, self._known(desk, connection, name))
            return self.show(put(connection, name))

        changed = desk.change(work, self.what)
        tag(response, changed)
        return changed

    def forget(self, desk: Desk, name: str) -> Shown:
        """Remove it. Raises NotFound, and whatever forbids it."""
        return desk.change(
            lambda connection: self.show(
                self.remove(connection, desk.tenant.id, name, desk.changer)
            ),
            self.what,
        )

    def _known(self, desk: Desk, connection: Connection, name: str) -> Shown:
        found = self.find(connection, desk.tenant.id, name)
        if found is None:
            raise NotFound()
        return self.show(found)

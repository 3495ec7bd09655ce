"""What a caller may write: the policy's filter, for what is there before and for what comes after.

What the caller cannot see is answered like what is not there: by a write to it and by a reference
to it alike. A caller who may write the whole tenant is not asked anything here.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from uuid import UUID

from interop.access import Caller, Filter, Way
from interop.access.compartments import PATIENT
from interop.access.permissions import group_of
from interop.errors import Forbidden, NotFound, Unprocessable
from interop.fhir import json
from interop.fhir.lens import Connection, JsonObject
from interop.fhir.published import refuse_change
from interop.fhir.references import local_references
from interop.fhir.visibility import Visibility
from storage.patient_access import give_home
from storage.resource_search import SearchStatement
from storage.resource_visibility import visible_ids
from storage.resources import Stored


def unresolved(references: list[str]) -> Unprocessable:
    """The refusal of references that name nothing, or nothing that the caller may see."""
    return Unprocessable(f"references that do not resolve: {', '.join(references[:20])}")


class WriteBounds:
    """The bounds of one caller's writes of one kind to one resource type.

    They are open where the whole tenant may be written: then nothing is asked here.
    """

    def __init__(self, caller: Caller, own_base: str, filter_: Filter) -> None:
        self._caller = caller
        self._own_base = own_base
        self._filter = filter_
        self.is_open = filter_.is_whole_tenant
        self._visibility = Visibility(caller, own_base)

    def seen(
        self, connection: Connection, key: tuple[str, str], before: Stored | None
    ) -> Stored | None:
        """What the caller may know of the resource that is there: None where that is nothing.

        Raises Forbidden for what may be read and not written so.
        """
        refuse_change(key)
        if self.is_open or before is None:
            return before
        if before.deleted or before.version == 0:
            return None
        resource = json.loads(before.body.encode())
        if self._visibility.admits(connection, self._filter, resource, before.row_id):
            return before
        shown = self._visibility.shown(key[0])
        if shown.ways and self._visibility.admits(connection, shown, resource, before.row_id):
            raise Forbidden("the token's scopes and the user's roles do not let this be written")
        return None

    def require_existing(self, before: Stored | None) -> None:
        """Raise NotFound where nothing is to be changed: an id is not for such a caller to choose.

        Else creating under the id of a resource that the caller cannot see would show that it is
        there.
        """
        if not self.is_open and before is None:
            raise NotFound

    def check(self, connection: Connection, resource: JsonObject, row_id: UUID | None) -> None:
        """Raise unless what is about to be written, and all it refers to, is within the bounds."""
        if self.is_open:
            return
        # Whose a new patient is, only its rows tell.
        is_new_patient = resource["resourceType"] == PATIENT and row_id is None
        if not is_new_patient and not self._visibility.admits(
            connection, self._filter, resource, row_id
        ):
            raise Forbidden(
                "what is written must lie within what the token's scopes, the user's roles and "
                "the patient in context let be written"
            )
        invisible = self._invisible(connection, resource)
        if invisible:
            raise unresolved(invisible)

    def settle(
        self, connection: Connection, resource: JsonObject, row_id: UUID | None, *, is_new: bool
    ) -> None:
        """Make a new patient one of the location for which alone the caller may write.

        The resource cannot say where a patient belongs; who writes it can, if that is one place.
        """
        if self.is_open or not is_new or row_id is None or resource["resourceType"] != PATIENT:
            return
        places = {
            place for way in self._filter.ways if way.units for place in way.units.location_ids
        }
        if places:
            give_home(connection, self._caller.tenant.id, row_id, places)

    def check_rows(self, connection: Connection, resource: JsonObject, row_id: UUID | None) -> None:
        """The same for what the rows of the server made of it."""
        if not self.is_open and not self._visibility.admits(
            connection, self._filter, resource, row_id
        ):
            raise Forbidden("the record behind this resource is outside what may be written")

    def _invisible(self, connection: Connection, resource: JsonObject) -> list[str]:
        """The references to resources of this server that the caller cannot see, or nobody."""
        own = f"{resource['resourceType']}/{resource['id']}"
        wanted: dict[str, set[str]] = defaultdict(set)
        for reference in local_references(resource, self._own_base):
            if reference != own:
                type_, _, id_ = reference.partition("/")
                wanted[type_].add(id_)
        found: list[str] = []
        for type_, ids in sorted(wanted.items()):
            visible = self._visible(connection, type_, ids)
            found += [f"{type_}/{id_}" for id_ in sorted(ids - visible)]
        return found

    def _visible(self, connection: Connection, type_: str, ids: set[str]) -> set[str]:
        statement = SearchStatement(type_)
        statement.conditions.append(statement.ids(sorted(ids)))
        self._visibility.restrict(statement, self._referable(type_))
        return visible_ids(connection, self._caller.tenant.id, statement)

    def _referable(self, type_: str) -> Filter:
        """What may be seen, what says nothing of a patient, and the patients written about."""
        shown = self._visibility.shown(type_)
        group = group_of(type_)
        if group is not None and group.is_shared:
            return shown.or_(Filter((Way(),)))
        if type_ == PATIENT:
            about = (replace(way, constraints=()) for way in self._filter.ways)
            return shown.or_(Filter(tuple(about)))
        return shown

"""Read and vread: stored bytes, one round trip (FHIR R4 http.html#read)."""

from __future__ import annotations

import asyncio
from uuid import UUID

from interop.access import Caller, Filter
from interop.access.audit import audit_parameters
from interop.errors import Gone, NotFound, Unavailable
from interop.fhir.rendering import render_one
from interop.fhir.versions import Version
from interop.fhir.visibility import Visibility
from storage import resources
from storage.database import Database
from storage.resource_visibility import read_within, versions, write_audit
from storage.resources import Stored

# A row may change again while its resource is rendered; nobody needs more than a few turns.
RENDER_TURNS = 5
JUDGED_AT_ONCE = 50


class Reader:
    """Reads of one caller, of what the policy's `filter_` admits."""

    def __init__(self, database: Database, caller: Caller, own_base: str, filter_: Filter) -> None:
        self._database = database
        self._caller = caller
        self._own_base = own_base
        self._filter = filter_
        self._visibility = Visibility(caller, own_base)

    async def read(self, resource_type: str, resource_id: str) -> Version:
        """The current version. Raises NotFound and Gone."""
        audit = audit_parameters(self._caller, "FHIR_READ", resource_type, resource_id)
        key = (self._caller.tenant.id, resource_type, resource_id)
        stored = await self._stored(key, audit)
        for _ in range(RENDER_TURNS):
            if stored is None or not stored.stale:
                break
            await asyncio.to_thread(render_one, self._database, *key, self._own_base)
            stored = await self._stored(key, audit)
        if stored is not None and stored.stale:
            raise Unavailable(f"{resource_type}/{resource_id} changes and cannot be shown now")
        if stored is None or stored.version == 0:
            raise NotFound
        if stored.deleted:
            if not self._filter.is_whole_tenant:
                await self._require_seen_before(key, audit)
            raise Gone(f"{resource_type}/{resource_id} was deleted")
        return Version(
            resource_type,
            resource_id,
            stored.version,
            stored.last_updated,
            stored.body.encode(),
        )

    async def vread(self, resource_type: str, resource_id: str, version_id: str) -> Version:
        """One version. Raises NotFound, and Gone for the version that is a deletion."""
        number = version_number(version_id)
        await self._render(resource_type, resource_id)
        audit = audit_parameters(self._caller, "FHIR_VREAD", resource_type, resource_id)
        key = (self._caller.tenant.id, resource_type, resource_id)
        if self._filter.is_whole_tenant:
            found = await resources.history(self._database, *key, audit, version=number)
        else:
            found = await self._judged(key, before=number + 1, count=1)
            found = [version for version in found if version.version == number]
            await self._audit(key, audit, is_found=bool(found))
        if not found:
            raise NotFound
        version = found[0]
        if version.body is None:
            raise Gone(f"version {version_id} of {resource_type}/{resource_id} is its deletion")
        body = version.body.encode()
        return Version(resource_type, resource_id, version.version, version.last_updated, body)

    # -- what less than the whole tenant shows ------------------------------------------

    async def _stored(self, key: tuple[UUID, str, str], audit: resources.Audit) -> Stored | None:
        if self._filter.is_whole_tenant:
            return await resources.read(self._database, *key, audit)
        query, values = self._visibility.of_read(key[1], self._filter)
        return await read_within(self._database, *key, query, values, audit)

    async def _require_seen_before(
        self, key: tuple[UUID, str, str], audit: resources.Audit
    ) -> None:
        """Raise NotFound where the caller could not see the resource when it was deleted."""
        is_visible = bool(await self._judged(key, before=None, count=1))
        await self._audit(key, audit, is_found=False)
        if not is_visible:
            raise NotFound

    async def _audit(
        self, key: tuple[UUID, str, str], audit: resources.Audit, *, is_found: bool
    ) -> None:
        outcome = audit if is_found else {**audit, "outcome": "FAILURE", "phi_action": None}
        await write_audit(self._database, *key, outcome)

    async def _judged(
        self, key: tuple[UUID, str, str], *, before: int | None, count: int
    ) -> list[resources.Version]:
        """The newest `count` visible versions older than `before`, each judged by itself.

        A deletion is as visible as what it deleted.
        """
        found: list[resources.Version] = []
        while len(found) < count:
            # One more than is looked at, in case the last is a deletion.
            row_id, batch = await versions(
                self._database, *key, before=before, limit=JUDGED_AT_ONCE + 1
            )
            seen = await self._visibility.visible_versions(
                self._database, key[1], self._filter, row_id, batch
            )
            older = [version.version for version in batch[1:]] + [0]
            for version, before_it in zip(batch[:JUDGED_AT_ONCE], older, strict=False):
                decisive = version.version if version.body is not None else before_it
                if decisive in seen:
                    found.append(version)
            if len(batch) <= JUDGED_AT_ONCE:
                break
            before = batch[JUDGED_AT_ONCE - 1].version
        return found[:count]

    async def _render(self, resource_type: str, resource_id: str) -> None:
        """History must show a change of rows as a read would."""
        await asyncio.to_thread(
            render_one,
            self._database,
            self._caller.tenant.id,
            resource_type,
            resource_id,
            self._own_base,
        )


def version_number(version_id: str) -> int:
    """The number of a version id of ours. Raises NotFound for any other."""
    if not version_id.isascii() or not version_id.isdigit() or len(version_id) > 18:
        raise NotFound
    return int(version_id)

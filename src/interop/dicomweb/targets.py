"""What a WADO-RS path names, a study, a series or an instance, and the rows that it stands for.

Every look-up goes through the whole path: an instance under another study's UID is not there. What
is not there and what is another tenant's raise the same NotFound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

from starlette.requests import Request

from interop.dicomweb.paths import root_of, uid_of
from interop.dicomweb.reading import Read
from interop.errors import NotFound

_FROM = (
    " FROM imaging_studies s"
    " JOIN imaging_series e ON e.tenant_id = %(tenant_id)s AND e.study_id = s.id"
    " JOIN imaging_objects o ON o.tenant_id = %(tenant_id)s AND o.series_id = e.id"
    " WHERE s.tenant_id = %(tenant_id)s AND s.study_uid = %(study)s"
    " AND o.sop_instance_uid IS NOT NULL"
)
_SERIES_TEST = " AND e.series_uid = %(series)s"
_INSTANCE_TEST = " AND o.sop_instance_uid = %(instance)s"
_ORDER = " ORDER BY e.series_number, e.series_uid, o.instance_number, o.sop_instance_uid"


@dataclass(frozen=True, slots=True)
class Target:
    """The study, series or instance that a path names; `url` is its retrieve URL."""

    study: str
    series: str | None
    instance: str | None
    root: str

    @classmethod
    def of(cls, request: Request) -> Target:
        """Read the path. Raises NotFound for what cannot be a UID."""
        present = request.path_params
        return cls(
            uid_of(request, "study"),
            uid_of(request, "series") if "series" in present else None,
            uid_of(request, "instance") if "instance" in present else None,
            root_of(request),
        )

    @property
    def parameters(self) -> dict[str, Any]:
        return {"study": self.study, "series": self.series, "instance": self.instance}

    @property
    def details(self) -> dict[str, str]:
        """What an audit row says of the part of the study that was read."""
        named = {"series_instance_uid": self.series, "sop_instance_uid": self.instance}
        return {name: uid for name, uid in named.items() if uid is not None}

    @property
    def url(self) -> str:
        url = f"{self.root}/studies/{self.study}"
        if self.series is not None:
            url += f"/series/{self.series}"
        if self.instance is not None:
            url += f"/instances/{self.instance}"
        return url

    def instance_url(self, series: str, instance: str) -> str:
        """The retrieve URL of an instance at or below the target."""
        return f"{self.root}/studies/{self.study}/series/{series}/instances/{instance}"

    def query(self, columns: str) -> str:
        """A SELECT of columns of all instances at or below the target, in viewing order."""
        tests = _SERIES_TEST if self.series is not None else ""
        if self.instance is not None:
            # One row: no order to make.
            return f"SELECT {columns}{_FROM}{tests}{_INSTANCE_TEST}"
        return f"SELECT {columns}{_FROM}{tests}{_ORDER}"


class StoredInstance(NamedTuple):
    """Where an instance's bytes are."""

    study_id: UUID
    series_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    storage_uri: str
    byte_size: int


STORED_COLUMNS = (
    "s.id, e.series_uid, o.sop_instance_uid, o.sop_class_uid, o.transfer_syntax_uid,"
    " o.storage_uri, o.byte_size"
)


async def stored_instances(read: Read, target: Target) -> list[StoredInstance]:
    """The instances at or below the target. Raises NotFound when there are none."""
    rows = await read.rows(target.query(STORED_COLUMNS), target.parameters)
    if not rows:
        raise NotFound()
    read.resource_id = str(rows[0][0])
    return [StoredInstance(*row) for row in rows]


def audited(read: Read, target: Target, count: int) -> None:
    """Say in the audit row which part of the study was read."""
    read.details["instances"] = count
    read.details.update(target.details)

"""What this process wrote last of the studies whose objects are still arriving.

The objects of a study come one after the other, and what the next batch must know of the study is
what the last one left. So it is kept here instead of being read again; the database compares it
under its locks (`ingest_resume` in storage/migrations/ingest.sql) and refuses what is out of date.
Not thread-safe: it belongs to the thread that commits.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from interop.dicom.batch import Batch
from interop.dicom.imaging_rows import Snapshot, StudyRow
from interop.dicom.query.tag_values import QueryTag
from interop.dicom.received import Received

# About 10 KB each.
_MOST_STUDIES = 256


@dataclass(slots=True)
class _Known:
    study: StudyRow
    series: dict[str, tuple[UUID, int]]
    issuer: str
    quiet_window_seconds: int | None
    settings_revision: str
    has_routes: bool
    query_tags: tuple[QueryTag, ...]


class KnownStudies:
    """Studies by tenant and Study Instance UID, the last used ones."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[UUID, str], _Known] = OrderedDict()

    def take(self, tenant_id: UUID, objects: Sequence[Received]) -> Snapshot | None:
        """Hand out what is known of all studies and series of a batch, or None.

        What is handed out will be changed, so it is known again only when `remember` says so.
        """
        studies: dict[str, _Known] = {}
        for received in objects:
            uid = received.study_instance_uid
            known = studies.get(uid) or self._known.get((tenant_id, uid))
            if known is None or received.series_instance_uid not in known.series:
                return None
            studies[uid] = known
        settings = {known.settings_revision for known in studies.values()}
        if len(settings) != 1:
            return None
        for uid in studies:
            del self._known[tenant_id, uid]
        first = next(iter(studies.values()))
        return Snapshot(
            objects={},
            studies={uid: known.study for uid, known in studies.items()},
            series={
                (uid, series_uid): found
                for uid, known in studies.items()
                for series_uid, found in known.series.items()
            },
            patients=[],
            issuer=first.issuer,
            quiet_window_seconds=first.quiet_window_seconds,
            settings_revision=first.settings_revision,
            has_routes=first.has_routes,
            query_tags=first.query_tags,
        )

    def remember(self, batch: Batch) -> None:
        """Keep what a batch left. Call only when its transaction is committed."""
        known = batch.known
        for uid, study in known.studies.items():
            study.settle()
            series = {s: found for (of, s), found in known.series.items() if of == uid}
            self._known[batch.tenant_id, uid] = _Known(
                study, series, known.issuer, known.quiet_window_seconds, known.settings_revision,
                known.has_routes, known.query_tags,
            )  # fmt: skip
        while len(self._known) > _MOST_STUDIES:
            self._known.popitem(last=False)

"""C-FIND SCP: Patient Root and Study Root (PS3.7 9.1.2, PS3.4 C.4.1, C.6).

Matches go out page by page. A page is one transaction: who searched and whose data is shown is
written before a byte of it leaves, as for QIDO-RS, and no connection is held while the peer reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Any, Final
from uuid import UUID

import orjson
import psycopg
from psycopg_pool import PoolTimeout

from interop.access.audit import audit_parameters
from interop.dicom.query import visibility
from interop.dicom.query.conditions import Tags
from interop.dicom.query.matching import Parameters
from interop.dicom.query.tags import read_ready_tags
from interop.dimse.command_set import C_FIND_RQ, OFFENDING_ELEMENT, response
from interop.dimse.find_keys import (
    PATIENT_ROOT_FIND,
    STUDY_ROOT_FIND,
    UNABLE_TO_PROCESS,
    Extended,
    Find,
    Refused,
    answer_extended,
    read_find,
)
from interop.dimse.find_statements import FIRST_PAGE, Plan, plan
from interop.dimse.identifier_encoding import Row
from interop.dimse.messages import fragments
from interop.dimse.service_requests import Served, Service, ServiceRequest
from interop.dimse.transactions import AuditRow, storable
from storage.database import Database
from storage.statements import Statement

EVENT: Final = "DICOM_QUERY"
_RESOURCE_TYPE: Final = "ImagingStudy"
SUCCESS: Final = 0x0000
PENDING: Final = 0xFF00
PENDING_WITH_KEYS_UNMATCHED: Final = 0xFF01
CANCELLED: Final = 0xFE00
# Responses that go out in one write. Between two of them the peer may have cancelled.
_WRITE_BYTES: Final = 32 << 10
_TAG = Struct("<HH")

# Binds what follows before the next Sync to the tenant (migrations/dicomweb.sql).
_BEGIN: Final = "SELECT dicomweb_begin_search(%(tenant_id)s)"
# The same before a statement whose plan is kept: PostgreSQL is not to weigh it against new ones.
_BEGIN_KEPT: Final = f"{_BEGIN}, set_config('plan_cache_mode', 'force_generic_plan', true)"


def handle_c_find(request: ServiceRequest) -> Served:
    """Answer one query to its end, or to the peer's C-CANCEL-RQ."""
    database = request.conversation.backend.database
    try:
        find = _read(request, database)
    except Refused as refused:
        _audit_failure(request, {"refused_elements": list(refused.offending)})
        offending = b"".join(
            _TAG.pack(int(tag[:4], 16), int(tag[4:], 16)) for tag in refused.offending
        )
        further = {OFFENDING_ELEMENT: offending} if offending else None
        request.respond(refused.status, refused.comment, further=further)
        return Served(refused.status, refused.comment)
    search = _Search(request, database, find)
    status = search.run()
    return Served(status, f"{search.count} matches")


def _read(request: ServiceRequest, database: Database) -> Find:
    if request.data_set is None:
        raise Refused(UNABLE_TO_PROCESS, "C-FIND-RQ without an identifier")

    def ready_tags() -> Tags:
        tenant_id = request.admission.tenant.id
        with database.connection(tenant_id) as connection:
            return read_ready_tags(connection, tenant_id)

    return read_find(
        request.data_set,
        request.context.transfer_syntax_uid,
        request.context.sop_class_uid,
        Extended.of(request.extended),
        ready_tags,
    )


class _Search:
    """The pages of one query and how they go out."""

    def __init__(self, request: ServiceRequest, database: Database, find: Find) -> None:
        self._request = request
        self._database = database
        self._find = find
        self._plan: Plan = plan(
            find, request.admission.called_ae_title, request.context.transfer_syntax_uid
        )
        status = PENDING if self._plan.is_complete else PENDING_WITH_KEYS_UNMATCHED
        self._pending = request.encoded(response(request.command, status, has_data_set=True))
        self._audit = _audit_text(request, _details(request, find))
        self._event: UUID | None = None
        self._shown: frozenset[UUID] = frozenset()
        self.count = 0

    def run(self) -> int:
        """Send every match; return the final status, which is sent too."""
        request, after = self._request, None
        limit = min(FIRST_PAGE, self._plan.largest_page)
        try:
            while not request.cancelled():
                rows = self._page(limit, after)
                is_last = len(rows) < limit
                if not self._send(rows, is_last=is_last):
                    break
                if is_last:
                    return SUCCESS
                after, limit = rows[-1], self._plan.largest_page
        except (psycopg.Error, PoolTimeout):
            _audit_failure(request, _details(request, self._find))
            raise
        request.respond(CANCELLED)
        return CANCELLED

    def _send(self, rows: Sequence[Row], *, is_last: bool) -> bool:
        """Send responses, and the final one behind the last; False when the peer cancelled."""
        request, pending = self._request, self._pending
        context_id = request.context.context_id
        largest = request.conversation.negotiated.peer_pdu_bytes
        identifier_of = self._plan.form.identifier
        written: list[bytes] = []
        size = 0
        for row in rows:
            identifier = identifier_of(row)
            pdus = fragments(context_id, identifier, largest)
            written += (pending, *pdus)
            size += len(pending) + len(identifier)
            self.count += 1
            if size >= _WRITE_BYTES:
                request.send_encoded(b"".join(written))
                written, size = [], 0
                if request.cancelled():
                    return False
        if is_last:
            written.append(request.encoded(response(request.command, SUCCESS)))
        if written:
            request.send_encoded(b"".join(written))
        return True

    def _page(self, limit: int, after: Row | None) -> list[Row]:
        """Read and log one page in one transaction."""
        admission = self._request.admission
        parameters = Parameters(
            tenant_id=admission.tenant.id,
            audit=self._audit,
            event=self._event,
            shown=list(self._shown),
        )
        filter_ = admission.decided("may_query").require()
        visible = visibility.condition(filter_, parameters)
        rows_sql = self._plan.statement(parameters, visible, limit, after)
        keeps_plan = self._plan.keeps_statement and visible is None and after is None
        _, found = self._database.run_blocking(
            admission.tenant.id,
            Statement(_BEGIN_KEPT if keeps_plan else _BEGIN, parameters.values, keeps_plan=True),
            Statement(self._logged(rows_sql), parameters.values, keeps_plan),
        )
        self._event = found[0][0]
        # Where nothing was found, the row that the log alone has made: it has no patient.
        rows = [row[1:] for row in found if row[-1] is not None]
        self._shown = frozenset(row[-1] for row in rows)
        return rows

    def _logged(self, rows_sql: str) -> str:
        """The query that returns the event and the rows, and logs itself and whom it shows.

        The log is the outer side of the join, so that it is written where nothing was found. Rows
        come out of a CTE in the order in which they went in.
        """
        names = ", ".join(f"c{n}" for n in range(self._plan.form.width))
        return (
            f"WITH page({names}, patient) AS MATERIALIZED ({rows_sql}), log AS MATERIALIZED ("
            " SELECT dimse_log_find(%(tenant_id)s, %(event)s, %(audit)s, ARRAY(SELECT patient"
            " FROM page WHERE patient IS NOT NULL), %(shown)s) AS event)"
            f" SELECT log.event, {names}, page.patient FROM log LEFT JOIN page ON true"
        )


def _details(request: ServiceRequest, find: Find) -> dict[str, Any]:
    """Level and keys of a query, never their values: those are names and birth dates."""
    return {"level": find.level_name, "keys": list(find.matched)}


def _audit_values(
    request: ServiceRequest, details: dict[str, Any], outcome: str = "SUCCESS"
) -> dict[str, Any]:
    admission = request.admission
    metadata = {
        "calling_ae_title": storable(admission.calling_ae_title),
        "called_ae_title": storable(admission.called_ae_title),
        "sop_class_uid": request.context.sop_class_uid,
        **details,
    }
    return audit_parameters(
        admission.caller, EVENT, _RESOURCE_TYPE, outcome=outcome, metadata=metadata
    )


def _audit_text(request: ServiceRequest, details: dict[str, Any]) -> str:
    """The audit row as the functions of the database take it."""
    values = _audit_values(request, details)
    return orjson.dumps({**values, "metadata": orjson.Fragment(values["metadata"])}).decode()


def _audit_failure(request: ServiceRequest, details: dict[str, Any]) -> None:
    """The row of a query that showed nothing, or no more."""
    values = _audit_values(request, details, "FAILURE")
    row = AuditRow(request.admission.tenant.id, values)
    request.conversation.backend.recorder.record(row)


SERVICE: Final = Service(
    C_FIND_RQ,
    "C-FIND",
    (PATIENT_ROOT_FIND, STUDY_ROOT_FIND),
    handle_c_find,
    needs="may_query",
    is_streaming=True,
    extended=answer_extended,
)

"""DELETE of a study, a series or an instance: an extension that most servers share (deletion.py).

What holds the images is told only to those who see the whole organization: a legal hold is hidden
from whom it concerns.
"""

from __future__ import annotations

from functools import partial

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response

from interop.access import Caller, Filter
from interop.access.audit import audit_parameters, mark_audited
from interop.dicom.deletion import EVENT, Held, Target, Visible, Waiver, delete
from interop.dicom.query.matching import Parameters
from interop.dicom.query.visibility import condition
from interop.dicomweb import visibility
from interop.dicomweb.errors import SECURITY_HEADERS
from interop.dicomweb.paths import uid_of
from interop.dicomweb.reading import admitted, reading, services_of
from interop.errors import BadRequest, Conflict, Forbidden, ServerError

RETENTION, FINDINGS = "despite-retention", "reviewed-findings"
LONGEST_REASON = 200


async def delete_instances(request: Request) -> Response:
    """Delete what the path names; 204 when it is gone for good, 409 with what holds it."""
    caller = await admitted(request, "d")
    filter_ = visibility.permitted(caller, "d")
    services = services_of(request)
    try:
        work = partial(
            delete,
            services.database,
            caller.tenant,
            target_of(request),
            audit_parameters(caller, EVENT, visibility.RESOURCE_TYPE),
            waiver=waiver_of(request, caller),
            visible=_visible(filter_),
        )
        await to_thread.run_sync(work)
    except ServerError as error:
        async with reading(services, caller, EVENT) as read:
            read.details["study_instance_uid"] = request.path_params["study"][:64]
            raise shown_to(filter_, error) from error
    mark_audited()
    return Response(status_code=204, headers=SECURITY_HEADERS)


def target_of(request: Request) -> Target:
    """What the path names. Raises the NotFound of an object that does not exist."""
    names = request.path_params
    series = uid_of(request, "series") if "series" in names else None
    instance = uid_of(request, "instance") if "instance" in names else None
    return Target(uid_of(request, "study"), series, instance)


def waiver_of(request: Request, caller: Caller) -> Waiver:
    """What the caller does not want to wait for. Raises BadRequest and Forbidden."""
    given = request.query_params
    unknown = set(given) - {RETENTION, FINDINGS}
    if unknown:
        raise BadRequest(
            f"parameter {sorted(unknown)[0][:64]!r}: {RETENTION}=<why> and"
            f" {FINDINGS}=delete are accepted"
        )
    if given.get(FINDINGS, "delete") != "delete":
        raise BadRequest(f"{FINDINGS}: 'delete' is accepted")
    reason = given.get(RETENTION)
    if reason is not None:
        if not 3 <= len(reason.strip()) <= LONGEST_REASON or not reason.isprintable():
            raise BadRequest(f"{RETENTION}: say why in 3 to {LONGEST_REASON} characters")
        if not _may_waive(caller):
            raise Forbidden(
                f"{RETENTION} is for the operator and for users who manage the settings"
            )
    return Waiver(reason, FINDINGS in given)


def _may_waive(caller: Caller) -> bool:
    if caller.actor_type == "SYSTEM":
        return True
    return caller.grants is not None and caller.grants.holds_everywhere("manage_settings")


def _visible(filter_: Filter) -> Visible:
    parameters = Parameters()
    return Visible(condition(filter_, parameters), parameters.values)


def shown_to(filter_: Filter, error: ServerError) -> ServerError:
    """The error as this caller may see it."""
    if isinstance(error, Held) and not filter_.is_whole_tenant:
        return Conflict("these images must be kept")
    return error

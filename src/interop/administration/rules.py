"""Whether a caller may administer: the one decision before every route of /api/v1.

The operator of the machine may, a user may with the route's permission for the whole organization,
and either only within the token's scopes: administration counts as the FHIR type that it is about
(access/routes.py). A token that an app holds for a user must name that type; `user/*` was given
for records. A service alone may only read the audit log, with `system/AuditEvent.s`.
"""

from __future__ import annotations

from interop.access.compartments import is_in_compartment
from interop.access.principals import PATIENT, Caller
from interop.access.routes import OPERATOR, Rule
from interop.errors import Forbidden

# What a service may be given by scopes alone, as the FHIR door gives it too.
OPEN_TO_SERVICES = "AuditEvent"


def require(caller: Caller, rule: Rule) -> None:
    """Raise Forbidden unless `caller` may do what `rule` guards."""
    _require_scope(caller, rule)
    if caller.required_consent is not None and is_in_compartment(rule.resource_type):
        # Here records are shown of all patients, and no filter could leave some of them out.
        raise Forbidden(
            f"an app that works for others sees {rule.resource_type} of patients who consented"
            " only: ask for them by FHIR or DICOMweb"
        )
    if caller.actor_type == "SYSTEM":
        return
    if rule.permission == OPERATOR:
        raise Forbidden("this is for the operator of the installation")
    if caller.user_id is None:
        if rule.resource_type != OPEN_TO_SERVICES:
            raise Forbidden("this is for people: a user's token, or the operator's")
        return
    if caller.patient_id is not None or caller.user_type == PATIENT:
        raise Forbidden("this is not for patients, nor with a patient in context")
    if caller.grants is None or not caller.grants.holds_everywhere(rule.permission):
        raise Forbidden(f"the permission {rule.permission} for the whole organization is needed")


def _require_scope(caller: Caller, rule: Rule) -> None:
    level = "user" if caller.user_id is not None else "system"
    is_of_app = caller.client_id is not None
    for scope in caller.scopes.permitting(rule.resource_type, rule.letter):
        # A constraint is about resources of the record; here it would be forgotten.
        is_whole = scope.level == level and not scope.constraints
        if is_whole and (scope.resource_type == rule.resource_type or not is_of_app):
            return
    raise Forbidden(
        f"the token's scopes do not permit this; {level}/{rule.resource_type}.{rule.letter} does"
    )

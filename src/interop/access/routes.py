"""Who may knock at which door: every route of the HTTP application with its rule.

A test compares this table with the live route table, both ways, and asks each route without a
token, with a token that permits nothing, and whether it wrote its audit row: a route that nobody
decided about does not ship.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FHIR = "/t/{tenant}/fhir/R4"
DICOMWEB = "/t/{tenant}/dicom-web"
ADMINISTRATION = "/api/v1/tenants/{tenant}"
# In place of a permission: only the operator of the installation.
OPERATOR = "operator"

# TOKEN: a bearer token, and `interop.access.policy` decides. CLIENT: a client proves who it is to
# the authorization server. SESSION: a browser session, or the steps of signing in. PUBLIC: says
# nothing of any tenant's data.
Guard = Literal["TOKEN", "CLIENT", "SESSION", "PUBLIC"]


@dataclass(frozen=True, slots=True)
class Rule:
    """What a route asks of who calls. `letter` is the scope letter that TOKEN routes need, or
    `user` where they need one.

    Where `letter` is empty nothing is there to be permitted: the method or the URL is refused.
    """

    guard: Guard
    letter: str = ""
    interaction: str = ""  # FHIR's name, as in the CapabilityStatement
    is_audited: bool = True
    # Of the administration: the permission that a user needs, and as which FHIR type it counts
    # for the scopes of a token (interop/administration/rules.py).
    permission: str = ""
    resource_type: str = ""
    even_suspended: bool = False
    even_closed: bool = False


_TYPE, _ID = "{resource_type}", "{resource_id}"
_NOT_THERE = Rule("TOKEN")
_PUBLIC = Rule("PUBLIC", is_audited=False)
_SESSION = Rule("SESSION")
_CLIENT = Rule("CLIENT")

_PEOPLE = ("manage_users", "PractitionerRole")
_SETTINGS = ("manage_settings", "Organization")
_DEVICES = ("manage_settings", "Endpoint")
_SEEN_IMAGES = ("view_imaging", "ImagingStudy")
_IMAGES = ("upload_imaging", "ImagingStudy")
_OPERATOR = (OPERATOR, "Organization")


def _administered(
    letter: str,
    kind: tuple[str, str],
    *,
    even_suspended: bool = False,
    even_closed: bool = False,
) -> Rule:
    permission, resource_type = kind
    return Rule(
        "TOKEN",
        letter,
        permission=permission,
        resource_type=resource_type,
        even_suspended=even_suspended,
        even_closed=even_closed,
    )


ROUTES: dict[tuple[str, str], Rule] = {
    # FHIR R4 http.html
    ("GET", f"{FHIR}/metadata"): _PUBLIC,
    ("GET", f"{FHIR}/.well-known/smart-configuration"): _PUBLIC,
    ("GET", f"{FHIR}/{_TYPE}/{_ID}"): Rule("TOKEN", "r", "read"),
    ("GET", f"{FHIR}/_history"): Rule("TOKEN", "r", "history-system"),
    ("GET", f"{FHIR}/{_TYPE}/_history"): Rule("TOKEN", "r", "history-type"),
    ("GET", f"{FHIR}/{_TYPE}/{_ID}/_history"): Rule("TOKEN", "r", "history-instance"),
    ("GET", f"{FHIR}/{_TYPE}/{_ID}/_history/{{version_id}}"): Rule("TOKEN", "r", "vread"),
    ("GET", f"{FHIR}/{_TYPE}"): Rule("TOKEN", "s", "search-type"),
    ("POST", f"{FHIR}/{_TYPE}/_search"): Rule("TOKEN", "s", "search-type"),
    ("GET", FHIR): Rule("TOKEN", "s", "search-system"),
    ("GET", f"{FHIR}/"): Rule("TOKEN", "s", "search-system"),
    ("GET", f"{FHIR}/_search"): Rule("TOKEN", "s", "search-system"),
    ("POST", f"{FHIR}/_search"): Rule("TOKEN", "s", "search-system"),
    ("GET", f"{FHIR}/{{owner_type}}/{{owner_id}}/*"): Rule("TOKEN", "s"),
    ("GET", f"{FHIR}/{{owner_type}}/{{owner_id}}/{{resource_type:fhir_type}}"): Rule("TOKEN", "s"),
    ("POST", f"{FHIR}/{{owner_type}}/{{owner_id}}/{{resource_type:fhir_type}}/_search"): Rule(
        "TOKEN", "s"
    ),
    ("POST", f"{FHIR}/{_TYPE}"): Rule("TOKEN", "c", "create"),
    ("PUT", f"{FHIR}/{_TYPE}/{_ID}"): Rule("TOKEN", "u", "update"),
    ("PATCH", f"{FHIR}/{_TYPE}/{_ID}"): Rule("TOKEN", "u", "patch"),
    ("DELETE", f"{FHIR}/{_TYPE}/{_ID}"): Rule("TOKEN", "d", "delete"),
    # The bytes of a Binary, in their own media type or as a resource.
    ("POST", f"{FHIR}/Binary"): Rule("TOKEN", "c"),
    ("PUT", f"{FHIR}/Binary/{_ID}"): Rule("TOKEN", "u"),
    ("PUT", f"{FHIR}/{_TYPE}"): Rule("TOKEN", "u"),
    ("PATCH", f"{FHIR}/{_TYPE}"): Rule("TOKEN", "u"),
    ("DELETE", f"{FHIR}/{_TYPE}"): Rule("TOKEN", "d"),
    # Search parameters of a tenant's own (interop/fhir/search/custom.py).
    ("POST", f"{FHIR}/SearchParameter/{_ID}/$reindex"): Rule("TOKEN", "u"),
    ("GET", f"{FHIR}/SearchParameter/{_ID}/$reindex"): Rule("TOKEN", "r"),
    ("POST", f"{FHIR}/$reindex"): Rule("TOKEN", "u"),
    ("GET", f"{FHIR}/$reindex"): Rule("TOKEN", "r"),
    # FHIR R4 operations on records (interop/fhir/operation_routes.py)
    ("GET", f"{FHIR}/Patient/$everything"): Rule("TOKEN", "r"),
    ("POST", f"{FHIR}/Patient/$everything"): Rule("TOKEN", "r"),
    ("GET", f"{FHIR}/Patient/{_ID}/$everything"): Rule("TOKEN", "r"),
    ("POST", f"{FHIR}/Patient/{_ID}/$everything"): Rule("TOKEN", "r"),
    ("GET", f"{FHIR}/Encounter/{_ID}/$everything"): Rule("TOKEN", "r"),
    ("POST", f"{FHIR}/Encounter/{_ID}/$everything"): Rule("TOKEN", "r"),
    ("GET", f"{FHIR}/Observation/$lastn"): Rule("TOKEN", "s"),
    ("POST", f"{FHIR}/Observation/$lastn"): Rule("TOKEN", "s"),
    ("GET", f"{FHIR}/$meta"): Rule("TOKEN", "r"),
    ("GET", f"{FHIR}/{_TYPE}/$meta"): Rule("TOKEN", "r"),
    ("GET", f"{FHIR}/{_TYPE}/{_ID}/$meta"): Rule("TOKEN", "r"),
    ("GET", f"{FHIR}/{_TYPE}/{_ID}/_history/{{version_id}}/$meta"): Rule("TOKEN", "r"),
    ("POST", f"{FHIR}/{_TYPE}/{_ID}/$meta-add"): Rule("TOKEN", "u"),
    ("POST", f"{FHIR}/{_TYPE}/{_ID}/$meta-delete"): Rule("TOKEN", "u"),
    # FHIR R4 terminology-service.html
    ("GET", f"{FHIR}/{_TYPE}/$validate"): Rule("TOKEN", "r"),
    ("POST", f"{FHIR}/{_TYPE}/$validate"): Rule("TOKEN", "r"),
    ("GET", f"{FHIR}/{_TYPE}/{_ID}/$validate"): Rule("TOKEN", "r"),
    ("POST", f"{FHIR}/{_TYPE}/{_ID}/$validate"): Rule("TOKEN", "r"),
    ("GET", f"{FHIR}/ValueSet/$expand"): Rule("TOKEN", "r"),
    ("POST", f"{FHIR}/ValueSet/$expand"): Rule("TOKEN", "r"),
    ("GET", f"{FHIR}/ValueSet/{_ID}/$expand"): Rule("TOKEN", "r"),
    ("POST", f"{FHIR}/ValueSet/{_ID}/$expand"): Rule("TOKEN", "r"),
    ("GET", f"{FHIR}/ValueSet/$validate-code"): Rule("TOKEN", "r"),
    ("POST", f"{FHIR}/ValueSet/$validate-code"): Rule("TOKEN", "r"),
    ("GET", f"{FHIR}/ValueSet/{_ID}/$validate-code"): Rule("TOKEN", "r"),
    ("POST", f"{FHIR}/ValueSet/{_ID}/$validate-code"): Rule("TOKEN", "r"),
    ("GET", f"{FHIR}/CodeSystem/$validate-code"): Rule("TOKEN", "r"),
    ("POST", f"{FHIR}/CodeSystem/$validate-code"): Rule("TOKEN", "r"),
    ("GET", f"{FHIR}/CodeSystem/{_ID}/$validate-code"): Rule("TOKEN", "r"),
    ("POST", f"{FHIR}/CodeSystem/{_ID}/$validate-code"): Rule("TOKEN", "r"),
    # A request that is answered later, for who asked.
    ("GET", f"{FHIR}/_async/{{id}}"): _NOT_THERE,
    ("DELETE", f"{FHIR}/_async/{{id}}"): _NOT_THERE,
    # A batch or transaction: each of its entries is judged by itself.
    ("POST", FHIR): Rule("TOKEN", "cruds"),
    ("POST", f"{FHIR}/"): Rule("TOKEN", "cruds"),
    # What R4 has and this server refuses, and what is no URL at all.
    ("*", FHIR): _NOT_THERE,
    ("*", f"{FHIR}/{{path:fhir_path}}"): _NOT_THERE,
    # DICOMweb, PS3.18 Table 10.1-1: one route, whose resources the test takes apart.
    ("*", f"{DICOMWEB}/{{rest:dicomweb_path}}"): Rule("TOKEN", "rs"),
    # WADO-URI, PS3.18 9.
    ("GET", "/t/{tenant}/wado"): Rule("TOKEN", "r"),
    # Pictures, models and videos that are no DICOM (interop/dicomweb/files.py).
    ("POST", "/t/{tenant}/imaging-objects"): Rule("TOKEN", "c"),
    ("GET", "/t/{tenant}/imaging-objects/{id}"): Rule("TOKEN", "r"),
    ("DELETE", "/t/{tenant}/imaging-objects/{id}"): Rule("TOKEN", "d"),
    ("GET", "/t/{tenant}/imaging-objects/{id}/dicom"): Rule("TOKEN", "r"),
    ("POST", "/t/{tenant}/imaging-objects/{id}/dicom"): Rule("TOKEN", "c"),
    # Breaking the glass.
    ("POST", "/t/{tenant}/emergency-access"): Rule("TOKEN", "r"),
    # A member of a parent organization asks for a token of one below.
    ("POST", "/t/{tenant}/act-in/{target}"): Rule("TOKEN", "user"),
    # The authorization server.
    ("POST", "/t/{tenant}/oauth2/token"): _CLIENT,
    ("POST", "/t/{tenant}/oauth2/introspect"): _CLIENT,
    ("POST", "/t/{tenant}/oauth2/revoke"): _CLIENT,
    ("POST", "/t/{tenant}/oauth2/register"): _CLIENT,
    ("POST", "/t/{tenant}/oauth2/launch"): _CLIENT,
    ("GET", "/t/{tenant}/oauth2/authorize"): _SESSION,
    ("POST", "/t/{tenant}/oauth2/authorize"): _SESSION,
    ("POST", "/t/{tenant}/oauth2/authorize/decision"): _SESSION,
    ("GET", "/t/{tenant}/oauth2/apps"): _SESSION,
    ("POST", "/t/{tenant}/oauth2/apps"): _SESSION,
    ("GET", "/t/{tenant}/oauth2/jwks"): _PUBLIC,
    ("GET", "/t/{tenant}/.well-known/openid-configuration"): _PUBLIC,
    # Signing in, and the own account.
    ("GET", "/t/{tenant}/sign-in"): _SESSION,
    ("POST", "/t/{tenant}/sign-in"): _SESSION,
    ("GET", "/t/{tenant}/sign-in/totp"): _SESSION,
    ("POST", "/t/{tenant}/sign-in/totp"): _SESSION,
    ("GET", "/t/{tenant}/sign-in/invitation"): _SESSION,
    ("POST", "/t/{tenant}/sign-in/invitation"): _SESSION,
    ("GET", "/t/{tenant}/sign-in/oidc/{provider}"): _SESSION,
    ("GET", "/t/{tenant}/sign-in/oidc/{provider}/callback"): _SESSION,
    ("GET", "/t/{tenant}/sign-out"): _SESSION,
    ("POST", "/t/{tenant}/sign-out"): _SESSION,
    ("GET", "/t/{tenant}/account"): _SESSION,
    ("GET", "/t/{tenant}/account/password"): _SESSION,
    ("POST", "/t/{tenant}/account/password"): _SESSION,
    ("POST", "/t/{tenant}/account/sessions/end"): _SESSION,
    ("POST", "/t/{tenant}/account/totp/begin"): _SESSION,
    ("POST", "/t/{tenant}/account/totp/confirm"): _SESSION,
    ("POST", "/t/{tenant}/account/totp/disable"): _SESSION,
    # The viewer. Its files are the same for everybody; its token is of a session.
    ("GET", "/viewer"): _PUBLIC,
    ("GET", "/viewer/"): _PUBLIC,
    ("GET", "/viewer/{build}/{name:path}"): _PUBLIC,
    ("GET", "/t/{tenant}/viewer"): _SESSION,
    ("GET", "/t/{tenant}/viewer/app-config.js"): _SESSION,
    ("GET", "/t/{tenant}/viewer/signed-in"): _SESSION,
    ("POST", "/t/{tenant}/viewer/token"): _SESSION,
    ("GET", "/t/{tenant}/viewer/{path:path}"): _SESSION,
    # Administration.
    ("GET", ADMINISTRATION): _administered("r", _SETTINGS),
    ("GET", f"{ADMINISTRATION}/settings"): _administered("r", _SETTINGS),
    ("PATCH", f"{ADMINISTRATION}/settings"): _administered("u", _SETTINGS),
    ("GET", f"{ADMINISTRATION}/branding"): _administered("r", _SETTINGS),
    ("PATCH", f"{ADMINISTRATION}/branding"): _administered("u", _SETTINGS),
    ("POST", f"{ADMINISTRATION}/suspend"): _administered("u", _OPERATOR),
    ("POST", f"{ADMINISTRATION}/resume"): _administered("u", _OPERATOR, even_suspended=True),
    ("GET", f"{ADMINISTRATION}/offboarding"): _administered("r", _OPERATOR, even_closed=True),
    ("POST", f"{ADMINISTRATION}/offboarding"): _administered(
        "d", _OPERATOR, even_suspended=True, even_closed=True
    ),
    ("POST", f"{ADMINISTRATION}/offboarding/confirm"): _administered(
        "d", _OPERATOR, even_suspended=True, even_closed=True
    ),
    ("GET", f"{ADMINISTRATION}/quotas"): _administered("r", _SETTINGS),
    ("PUT", f"{ADMINISTRATION}/quotas"): _administered("u", _OPERATOR),
    ("GET", f"{ADMINISTRATION}/features"): _administered("r", _SETTINGS),
    ("GET", f"{ADMINISTRATION}/features/{{feature}}"): _administered("r", _SETTINGS),
    ("PUT", f"{ADMINISTRATION}/features/{{feature}}"): _administered("u", _OPERATOR),
    ("GET", f"{ADMINISTRATION}/users"): _administered("s", _PEOPLE),
    ("POST", f"{ADMINISTRATION}/users"): _administered("c", _PEOPLE),
    ("GET", f"{ADMINISTRATION}/users/{{user_id}}"): _administered("r", _PEOPLE),
    ("POST", f"{ADMINISTRATION}/users/{{user_id}}/disable"): _administered("u", _PEOPLE),
    ("POST", f"{ADMINISTRATION}/users/{{user_id}}/enable"): _administered("u", _PEOPLE),
    ("GET", f"{ADMINISTRATION}/users/{{user_id}}/roles"): _administered("s", _PEOPLE),
    ("POST", f"{ADMINISTRATION}/users/{{user_id}}/roles"): _administered("c", _PEOPLE),
    ("DELETE", f"{ADMINISTRATION}/users/{{user_id}}/roles/{{assignment_id}}"): _administered(
        "d", _PEOPLE
    ),
    ("GET", f"{ADMINISTRATION}/invitations"): _administered("s", _PEOPLE),
    ("DELETE", f"{ADMINISTRATION}/invitations/{{invitation_id}}"): _administered("d", _PEOPLE),
    ("GET", f"{ADMINISTRATION}/roles"): _administered("s", _PEOPLE),
    ("POST", f"{ADMINISTRATION}/roles"): _administered("c", _PEOPLE),
    ("GET", f"{ADMINISTRATION}/roles/{{code}}"): _administered("r", _PEOPLE),
    ("PUT", f"{ADMINISTRATION}/roles/{{code}}/permissions"): _administered("u", _PEOPLE),
    ("DELETE", f"{ADMINISTRATION}/roles/{{code}}"): _administered("d", _PEOPLE),
    ("GET", f"{ADMINISTRATION}/clients"): _administered("s", _SETTINGS),
    ("POST", f"{ADMINISTRATION}/clients"): _administered("c", _SETTINGS),
    ("GET", f"{ADMINISTRATION}/clients/{{id}}"): _administered("r", _SETTINGS),
    ("POST", f"{ADMINISTRATION}/clients/{{id}}/disable"): _administered("u", _SETTINGS),
    ("POST", f"{ADMINISTRATION}/clients/{{id}}/secret"): _administered("u", _SETTINGS),
    ("GET", f"{ADMINISTRATION}/application-entities"): _administered("s", _DEVICES),
    ("POST", f"{ADMINISTRATION}/application-entities"): _administered("c", _DEVICES),
    ("GET", f"{ADMINISTRATION}/application-entities/{{id}}"): _administered("r", _DEVICES),
    ("PATCH", f"{ADMINISTRATION}/application-entities/{{id}}"): _administered("u", _DEVICES),
    ("POST", f"{ADMINISTRATION}/application-entities/{{id}}/disable"): _administered("u", _DEVICES),
    ("GET", f"{ADMINISTRATION}/quarantine"): _administered("s", _SEEN_IMAGES),
    ("GET", f"{ADMINISTRATION}/quarantine/{{id}}"): _administered("r", _SEEN_IMAGES),
    ("POST", f"{ADMINISTRATION}/quarantine/{{id}}/release"): _administered("u", _IMAGES),
    ("POST", f"{ADMINISTRATION}/quarantine/{{id}}/discard"): _administered("d", _IMAGES),
    # Attributes that searches of images can match (interop/dicom/query_tags.py).
    ("GET", f"{ADMINISTRATION}/query-tags"): _administered("s", _DEVICES),
    ("POST", f"{ADMINISTRATION}/query-tags"): _administered("c", _DEVICES),
    ("GET", f"{ADMINISTRATION}/query-tags/{{tag}}"): _administered("r", _DEVICES),
    ("GET", f"{ADMINISTRATION}/query-tags/{{tag}}/errors"): _administered("r", _DEVICES),
    ("DELETE", f"{ADMINISTRATION}/query-tags/{{tag}}"): _administered("d", _DEVICES),
    # Images that are sent on to others, and promises to keep them (interop/routing).
    ("GET", f"{ADMINISTRATION}/routing-rules"): _administered("s", _DEVICES),
    ("POST", f"{ADMINISTRATION}/routing-rules"): _administered("c", _DEVICES),
    ("GET", f"{ADMINISTRATION}/routing-rules/{{rule}}"): _administered("r", _DEVICES),
    ("PUT", f"{ADMINISTRATION}/routing-rules/{{rule}}"): _administered("u", _DEVICES),
    ("DELETE", f"{ADMINISTRATION}/routing-rules/{{rule}}"): _administered("d", _DEVICES),
    ("GET", f"{ADMINISTRATION}/routing-destinations"): _administered("s", _DEVICES),
    ("POST", f"{ADMINISTRATION}/routing-destinations"): _administered("c", _DEVICES),
    ("GET", f"{ADMINISTRATION}/routing-destinations/{{destination}}"): _administered("r", _DEVICES),
    ("PUT", f"{ADMINISTRATION}/routing-destinations/{{destination}}"): _administered("u", _DEVICES),
    ("DELETE", f"{ADMINISTRATION}/routing-destinations/{{destination}}"): _administered(
        "d", _DEVICES
    ),
    ("GET", f"{ADMINISTRATION}/deliveries"): _administered("s", _DEVICES),
    ("POST", f"{ADMINISTRATION}/deliveries/{{id}}/retry"): _administered("u", _DEVICES),
    ("GET", f"{ADMINISTRATION}/storage-commitments"): _administered("s", _DEVICES),
    ("GET", f"{ADMINISTRATION}/keys"): _administered("r", _SETTINGS),
    ("POST", f"{ADMINISTRATION}/keys/data/rotate"): _administered("u", _SETTINGS),
    # They sign for every tenant.
    ("POST", f"{ADMINISTRATION}/keys/signing/rotate"): _administered("u", _OPERATOR),
    ("GET", f"{ADMINISTRATION}/audit-events"): _administered("s", ("view_audit_log", "AuditEvent")),
    ("*", f"{ADMINISTRATION}/{{rest:path}}"): _NOT_THERE,
    ("GET", "/api/v1/openapi.json"): _PUBLIC,
    ("GET", "/docs"): _PUBLIC,
    # The process itself.
    ("GET", "/"): _PUBLIC,
    ("GET", "/livez"): _PUBLIC,
    ("GET", "/readyz"): _PUBLIC,
    ("GET", "/metrics"): _PUBLIC,
}

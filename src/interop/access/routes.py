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


_TYPE, _ID = "{resource_type}", "{resource_id}"
_NOT_THERE = Rule("TOKEN")
_PUBLIC = Rule("PUBLIC", is_audited=False)
_SESSION = Rule("SESSION")
_CLIENT = Rule("CLIENT")

ROUTES: dict[tuple[str, str], Rule] = {
    # FHIR R4 http.html
    ("GET", f"{FHIR}/metadata"): _PUBLIC,
    ("GET", f"{FHIR}/.well-known/smart-configuration"): _PUBLIC,
    ("GET", f"{FHIR}/{_TYPE}/{_ID}"): Rule("TOKEN", "r", "read"),
    ("GET", f"{FHIR}/{_TYPE}/{_ID}/_history"): Rule("TOKEN", "r", "history-instance"),
    ("GET", f"{FHIR}/{_TYPE}/{_ID}/_history/{{version_id}}"): Rule("TOKEN", "r", "vread"),
    ("GET", f"{FHIR}/{_TYPE}"): Rule("TOKEN", "s", "search-type"),
    ("POST", f"{FHIR}/{_TYPE}/_search"): Rule("TOKEN", "s", "search-type"),
    ("POST", f"{FHIR}/{_TYPE}"): Rule("TOKEN", "c", "create"),
    ("PUT", f"{FHIR}/{_TYPE}/{_ID}"): Rule("TOKEN", "u", "update"),
    ("DELETE", f"{FHIR}/{_TYPE}/{_ID}"): Rule("TOKEN", "d", "delete"),
    # What R4 has and this server refuses, and what is no URL at all.
    ("POST", FHIR): _NOT_THERE,
    ("POST", f"{FHIR}/"): _NOT_THERE,
    ("GET", FHIR): _NOT_THERE,
    ("GET", f"{FHIR}/"): _NOT_THERE,
    ("GET", f"{FHIR}/_search"): _NOT_THERE,
    ("POST", f"{FHIR}/_search"): _NOT_THERE,
    ("GET", f"{FHIR}/_history"): _NOT_THERE,
    ("GET", f"{FHIR}/{_TYPE}/_history"): _NOT_THERE,
    ("*", FHIR): _NOT_THERE,
    ("*", f"{FHIR}/{{path:fhir_path}}"): _NOT_THERE,
    # DICOMweb, PS3.18 Table 10.1-1: one route, whose resources the test takes apart.
    ("*", f"{DICOMWEB}/{{rest:dicomweb_path}}"): Rule("TOKEN", "rs"),
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
    # The process itself.
    ("GET", "/"): _PUBLIC,
    ("GET", "/livez"): _PUBLIC,
    ("GET", "/readyz"): _PUBLIC,
    ("GET", "/metrics"): _PUBLIC,
}

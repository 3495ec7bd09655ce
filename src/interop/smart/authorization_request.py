"""What an app asks at the authorization endpoint, judged before anything is shown or redirected
(RFC 6749 4.1.1, RFC 7636, RFC 9207, RFC 9700 4.1; SMART App Launch 2.2, 2.0.8).

Who asks and where the answer goes must be right first: until then nothing is ever redirected.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, urlencode

from interop.access.scopes import Scopes
from interop.smart import scope_negotiation
from interop.smart.authorizations import is_challenge
from interop.smart.clients import AUTHORIZATION_CODE, ApiClient
from interop.smart.errors import OAuthError
from interop.smart.forms import MAX_FIELDS, once_each

MAX_QUERY = 8 * 1024
MAX_STATE = 2048


class RefusedHere(Exception):
    """The request is refused on a page of ours: there is no address that may have the answer."""


class RefusedToApp(Exception):
    """The request is refused and the app is told (RFC 6749 4.1.2.1)."""

    def __init__(self, error: str, description: str) -> None:
        self.error, self.description = error, description
        super().__init__(description)


@dataclass(frozen=True, slots=True)
class Addressee:
    """The app that asks and the registered address that gets the answer."""

    client: ApiClient
    redirect_uri: str
    state: str | None
    issuer: str

    def answer(self, **parameters: str | None) -> str:
        """The address with an answer: always with the issuer (RFC 9207)."""
        given = {**parameters, "state": self.state, "iss": self.issuer}
        query = urlencode({k: v for k, v in given.items() if v is not None}, quote_via=quote)
        return f"{self.redirect_uri}{'&' if '?' in self.redirect_uri else '?'}{query}"


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    """A well-formed request of a known app."""

    client: ApiClient
    redirect_uri: str
    scopes: Scopes
    scope_text: str
    code_challenge: str
    nonce: str | None
    launch: str | None
    prompt: frozenset[str]
    max_age: int | None


def parameters_of(query: str) -> dict[str, str]:
    """The parameters of the query. Raises RefusedHere."""
    if len(query) > MAX_QUERY:
        raise RefusedHere(f"the request has more than {MAX_QUERY} characters")
    try:
        return once_each(parse_qsl(query, keep_blank_values=True, max_num_fields=MAX_FIELDS))
    except (OAuthError, ValueError) as error:
        raise RefusedHere(str(error)) from error


def addressee(client: ApiClient | None, given: dict[str, str], issuer: str) -> Addressee:
    """Who gets the answer. Raises RefusedHere: redirect URIs match whole and exactly."""
    redirect_uri = given.get("redirect_uri")
    if client is None:
        raise RefusedHere("client_id is not that of an app registered here")
    if redirect_uri is None or redirect_uri not in client.redirect_uris:
        raise RefusedHere("redirect_uri is not one that is registered for this app")
    return Addressee(client, redirect_uri, given.get("state"), issuer)


def read(to: Addressee, given: dict[str, str], fhir_base: str) -> AuthorizationRequest:
    """The rest of the request. Raises RefusedToApp."""

    def refuse(description: str, error: str = "invalid_request") -> RefusedToApp:
        return RefusedToApp(error, description)

    for name in ("request", "request_uri"):
        if name in given:
            raise refuse(f"{name} is not supported", f"{name}_not_supported")
    if given.get("response_type") != "code":
        raise refuse("response_type must be 'code'", "unsupported_response_type")
    if AUTHORIZATION_CODE not in to.client.grant_types:
        raise refuse("this client is not registered for authorization_code", "unauthorized_client")
    if given.get("response_mode", "query") != "query":
        raise refuse("response_mode must be 'query'")
    if to.state is None or len(to.state) > MAX_STATE:
        raise refuse(f"state is required, with at most {MAX_STATE} characters")
    if given.get("code_challenge_method") != "S256":
        raise refuse("PKCE is required: code_challenge_method must be 'S256'")
    if not is_challenge(given.get("code_challenge", "")):
        raise refuse("code_challenge must be the base64url of a SHA-256 (RFC 7636 4.2)")
    if given.get("aud", "").rstrip("/") != fhir_base:
        raise refuse(f"aud must be the FHIR base URL {fhir_base}")
    max_age = given.get("max_age")
    if max_age is not None and not (max_age.isascii() and max_age.isdigit() and len(max_age) < 10):
        raise refuse("max_age must be a number of seconds")
    text = given.get("scope", "")
    try:
        scopes = scope_negotiation.asked_for(text)
    except OAuthError as error:
        raise refuse(error.description, "invalid_scope") from error
    if "launch" in given and not scopes.has("launch"):
        raise refuse("a launch needs the scope 'launch'", "invalid_scope")
    return AuthorizationRequest(
        client=to.client,
        redirect_uri=to.redirect_uri,
        scopes=scopes,
        scope_text=text,
        code_challenge=given["code_challenge"],
        nonce=given.get("nonce"),
        launch=given.get("launch"),
        prompt=frozenset(given.get("prompt", "").split()),
        max_age=None if max_age is None else int(max_age),
    )

"""Sign-in with an external OpenID Connect provider: discovery, code flow, PKCE, state, nonce.

OpenID Connect Core 1.0, RFC 7636 (S256), RFC 9207 (issuer in the answer). Authlib speaks the
protocol, joserfc checks the signature, and every call leaves through interop.events.egress.
A person is who (issuer, subject) says. An e-mail address alone is nobody: only one that the
provider has verified counts, and only where an invitation or the provider's setting allows it.
"""

from __future__ import annotations

import hmac
import json
import logging
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from anyio import to_thread
from authlib.common.errors import AuthlibBaseError
from authlib.oauth2.auth import ClientAuth
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri, prepare_token_request
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from interop.errors import Unavailable
from interop.events import egress
from interop.identity import challenges, invitations, providers, users
from interop.identity.sign_in import (
    Browser,
    SignedIn,
    SignInRefused,
    is_member,
    open_session,
    refuse,
)
from storage.database import Connection

if TYPE_CHECKING:
    from interop.services import Services
    from storage.tenancy import Tenant

logger = logging.getLogger(__name__)

# Signatures by a key that only the provider has. HS256 would let anybody who knows the client
# secret speak for the provider.
ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"]
LEEWAY_SECONDS = 60
_ACCEPT = {"Accept": "application/json"}
NOT_CONFIRMED = "the provider did not confirm this sign-in; begin again"
NOT_INVITED = "this account may not sign in here; ask for an invitation"


@dataclass(frozen=True, slots=True)
class Person:
    """What a provider has said about who signed in."""

    issuer: str
    subject: str
    verified_email: str | None
    full_name: str
    has_second_factor: bool


class Refusal(SignInRefused):
    """The sign-in was refused; `reason` is for the audit log."""

    def __init__(self, reason: str, diagnostics: str) -> None:
        super().__init__(diagnostics)
        self.reason = reason


async def begin(
    services: Services, tenant: Tenant, name: str, continue_path: str
) -> tuple[str, str]:
    """Where the browser goes to sign in, and the token that binds its return to it.

    Raises NotFound for a provider that the tenant does not offer, Unavailable when it is silent.
    """
    provider, _ = await to_thread.run_sync(_provider, services, tenant, name)
    try:
        metadata = await _metadata(services, provider)
    except (egress.EgressRefused, egress.EgressFailed, ValueError, KeyError) as error:
        logger.warning("oidc_discovery_failed", extra={"provider": str(provider.id)})
        raise Unavailable("the provider does not answer; try again later") from error
    held = {
        "state": secrets.token_urlsafe(32),
        "nonce": secrets.token_urlsafe(32),
        "verifier": secrets.token_urlsafe(48),
    }
    url = prepare_grant_uri(
        metadata["authorization_endpoint"],
        provider.client_id,
        "code",
        redirect_uri(services, tenant, provider),
        " ".join(provider.scopes),
        held["state"],
        nonce=held["nonce"],
        code_challenge=create_s256_code_challenge(held["verifier"]),
        code_challenge_method="S256",
    )

    def remember() -> str:
        with services.database.connection(tenant.id) as connection:
            return challenges.begin(
                connection, services.master_key, tenant.id, "OIDC", continue_path,
                provider_id=provider.id, secrets=held,
            )  # fmt: skip

    return str(url), await to_thread.run_sync(remember)


async def complete(
    services: Services,
    tenant: Tenant,
    browser: Browser,
    name: str,
    challenge_token: str,
    answer: dict[str, str],
) -> SignedIn:
    """Judge the provider's answer (the query of the callback). Raises SignInRefused."""
    try:
        provider, secret = await to_thread.run_sync(_provider, services, tenant, name)
        challenge = await to_thread.run_sync(
            _used_challenge, services, tenant, provider, challenge_token, answer
        )
        person = await _person(services, tenant, provider, secret, challenge, answer)
        return await to_thread.run_sync(
            _signed_in, services, tenant, browser, provider, person, challenge.continue_path
        )
    except Refusal as error:
        await to_thread.run_sync(refuse, services, tenant, browser, error.reason)
        raise


def redirect_uri(services: Services, tenant: Tenant, provider: providers.Provider) -> str:
    """What is registered with the provider as the address to come back to."""
    base = services.settings.effective_public_url
    return f"{base}/t/{tenant.slug}/sign-in/oidc/{provider.name}/callback"


def _used_challenge(
    services: Services,
    tenant: Tenant,
    provider: providers.Provider,
    token: str,
    answer: dict[str, str],
) -> challenges.Challenge:
    """The challenge that this answer belongs to, used up whether or not the answer is good."""
    with services.database.connection(tenant.id) as connection:
        keys = services.master_key
        challenge = challenges.attempt(connection, keys, tenant.id, "OIDC", token)
        fresh = challenge is not None and challenges.consume(connection, tenant.id, challenge)
    if challenge is None or not fresh or challenge.provider_id != provider.id:
        raise Refusal("NO_CHALLENGE", NOT_CONFIRMED)
    if not hmac.compare_digest(challenge.secrets["state"], answer.get("state", "")):
        raise Refusal("WRONG_STATE", NOT_CONFIRMED)
    if answer.get("iss", provider.issuer) != provider.issuer:
        raise Refusal("WRONG_ISSUER", NOT_CONFIRMED)
    if "error" in answer or "code" not in answer:
        raise Refusal("PROVIDER_REFUSED", NOT_CONFIRMED)
    return challenge


async def _person(
    services: Services,
    tenant: Tenant,
    provider: providers.Provider,
    secret: str | None,
    challenge: challenges.Challenge,
    answer: dict[str, str],
) -> Person:
    """Exchange the code and check the id_token. Raises Refusal."""
    try:
        metadata = await _metadata(services, provider)
        token = await _exchanged(services, tenant, provider, secret, metadata, challenge, answer)
        published: Any = await _json(services, metadata["jwks_uri"])
        keys = KeySet.import_key_set(published)
        claims = _claims(provider, challenge.secrets["nonce"], keys, token)
    except (
        egress.EgressRefused, egress.EgressFailed, AuthlibBaseError, JoseError, ValueError,
        KeyError, TypeError,
    ) as error:  # fmt: skip
        logger.warning(
            "oidc_not_confirmed",
            extra={"provider": str(provider.id), "error": type(error).__name__},
        )
        raise Refusal("NOT_CONFIRMED", NOT_CONFIRMED) from error
    person = _read(provider, claims)
    domain = (person.verified_email or "").rpartition("@")[2]
    if provider.allowed_email_domains and domain not in provider.allowed_email_domains:
        raise Refusal("WRONG_DOMAIN", NOT_INVITED)
    return person


async def _exchanged(
    services: Services,
    tenant: Tenant,
    provider: providers.Provider,
    secret: str | None,
    metadata: dict[str, Any],
    challenge: challenges.Challenge,
    answer: dict[str, str],
) -> dict[str, Any]:
    """What the token endpoint gives for the code (RFC 6749 4.1.3, RFC 7636 4.5)."""
    body = prepare_token_request(
        "authorization_code",
        redirect_uri=redirect_uri(services, tenant, provider),
        code=answer["code"],
        code_verifier=challenge.secrets["verifier"],
    )
    # OpenID Connect Discovery 3: without a list, client_secret_basic is what there is.
    offered = metadata.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
    with_secret = (
        "client_secret_basic" if "client_secret_basic" in offered else "client_secret_post"
    )
    method = with_secret if secret else "none"
    url, headers, content = ClientAuth(provider.client_id, secret, method).prepare(
        "POST",
        metadata["token_endpoint"],
        {**_ACCEPT, "Content-Type": "application/x-www-form-urlencoded"},
        body,
    )
    given = await egress.request(
        "POST", url, _policy(services), headers=headers, content=content.encode()
    )
    return _object(given)


def _claims(
    provider: providers.Provider, nonce: str, keys: KeySet, token: dict[str, Any]
) -> dict[str, Any]:
    """The checked claims of the id_token (OpenID Connect Core 3.1.3.7)."""
    decoded = jwt.decode(token["id_token"], keys, algorithms=ALGORITHMS)
    audience = {"essential": True, "value": provider.client_id}
    claims = CodeIDToken(
        decoded.claims,
        decoded.header,
        options={"iss": {"essential": True, "value": provider.issuer}, "aud": audience},
        params={"nonce": nonce, "client_id": provider.client_id},
    )
    claims.validate(now=int(time.time()), leeway=LEEWAY_SECONDS)
    return dict(claims)


def _read(provider: providers.Provider, claims: dict[str, Any]) -> Person:
    email = claims.get("email")
    is_verified = claims.get("email_verified") is True and isinstance(email, str)
    typed = users.typed_email(email) if is_verified and isinstance(email, str) else ""
    name = " ".join(str(claims.get("name") or "").split())[: users.NAME_LENGTH]
    return Person(
        provider.issuer,
        str(claims["sub"])[:255],
        typed if users.EMAIL.fullmatch(typed) else None,
        name,
        "mfa" in (claims.get("amr") or []),
    )


def _signed_in(
    services: Services,
    tenant: Tenant,
    browser: Browser,
    provider: providers.Provider,
    person: Person,
    continue_path: str,
) -> SignedIn:
    amr = ["fed", "mfa"] if person.has_second_factor else ["fed"]
    with services.database.connection(tenant.id) as connection:
        user_id, how = _matched(connection, tenant, provider, person)
        connection.execute(
            "UPDATE user_auth_identities SET last_used_at = now()"
            " WHERE provider = 'OIDC' AND issuer = %s AND subject = %s",
            (person.issuer, person.subject),
        )
        return open_session(
            services, connection, tenant, browser, user_id, amr, continue_path,
            provider=str(provider.id), how=how,
        )  # fmt: skip


def _matched(
    connection: Connection, tenant: Tenant, provider: providers.Provider, person: Person
) -> tuple[UUID, str]:
    """The user who signs in, and how they were found: KNOWN, INVITED or LINKED. Raises Refusal."""
    known = connection.execute(
        "SELECT user_id FROM user_auth_identities"
        " WHERE provider = 'OIDC' AND issuer = %s AND subject = %s",
        (person.issuer, person.subject),
    ).fetchone()
    if known and is_member(connection, tenant.id, known[0]):
        return known[0], "KNOWN"
    email = person.verified_email
    if email is None:
        raise Refusal("NOT_A_MEMBER", NOT_INVITED)
    same = connection.execute("SELECT id, status FROM users WHERE email = %s", (email,)).fetchone()
    invitation = invitations.find_by_email(connection, tenant.id, email)
    is_new = known is None and same is None
    is_own = known is not None and same == (known[0], "ACTIVE")
    # An account that has another way to sign in is never claimed by an invitation and an address:
    # its owner accepts with what they have.
    if invitation is not None and (is_new or is_own):
        user_id = known[0] if known else _new_user(connection, person, invitation.full_name)
        invitations.accept(connection, tenant.id, invitation, user_id)
        return user_id, "INVITED"
    if provider.may_link_by_email and known is None and same is not None:
        if is_member(connection, tenant.id, same[0]):
            _insert_identity(connection, same[0], person)
            return same[0], "LINKED"
    raise Refusal("NOT_A_MEMBER", NOT_INVITED)


def _new_user(connection: Connection, person: Person, full_name: str) -> UUID:
    assert person.verified_email is not None
    user_id = users.insert_user(connection, person.verified_email, person.full_name or full_name)
    _insert_identity(connection, user_id, person)
    return user_id


def _insert_identity(connection: Connection, user_id: UUID, person: Person) -> None:
    connection.execute(
        "INSERT INTO user_auth_identities (user_id, provider, issuer, subject)"
        " VALUES (%s, 'OIDC', %s, %s)",
        (user_id, person.issuer, person.subject),
    )


def _provider(
    services: Services, tenant: Tenant, name: str
) -> tuple[providers.Provider, str | None]:
    with services.database.connection(tenant.id) as connection:
        provider = providers.find(connection, tenant.id, name)
        secret = providers.client_secret(connection, tenant.id, provider.id)
    return provider, secret


async def _metadata(services: Services, provider: providers.Provider) -> dict[str, Any]:
    """The provider's configuration (OpenID Connect Discovery 1.0, 4.3: issuer must be equal)."""
    url = provider.issuer.rstrip("/") + "/.well-known/openid-configuration"
    metadata = await _json(services, url)
    if metadata.get("issuer") != provider.issuer:
        raise ValueError("the provider says that it is another issuer")
    return metadata


async def _json(services: Services, url: str) -> dict[str, Any]:
    return _object(await egress.request("GET", url, _policy(services), headers=_ACCEPT))


def _object(answer: egress.Answer) -> dict[str, Any]:
    if answer.status != 200:
        raise egress.EgressFailed(f"status {answer.status}")
    found = json.loads(answer.body)
    if not isinstance(found, dict):
        raise ValueError("a JSON object was expected")
    return found


def _policy(services: Services) -> egress.EgressPolicy:
    settings = services.settings
    return egress.EgressPolicy.parse(settings.egress_private_networks, settings.egress_ca_file)

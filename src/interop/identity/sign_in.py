"""Signing in, step by step: what proves who somebody is, and what each attempt leaves behind.

Every attempt is counted before it is judged and writes exactly one audit row, whatever becomes of
it. A refusal says the same, after the same work, whether the account exists, is disabled, is a
member elsewhere, or has another password (security.md E9).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

from interop.errors import Conflict, ServerError, TooManyRequests, Unauthorized
from interop.identity import challenges, invitations, passwords, sessions, throttle, totp, users
from interop.identity.actors import Actor, audit
from interop.identity.devices import Device
from interop.identity.source_address import throttled_unit
from storage.database import Connection

if TYPE_CHECKING:
    from interop.services import Services
    from storage.tenancy import Tenant

logger = logging.getLogger(__name__)
T = TypeVar("T")

REFUSED = "the e-mail address or the password is not right"
CODE_REFUSED = "the code is not right, or was used already"
TOO_LATE = "this sign-in has ended; begin again"


class SignInRefused(Unauthorized):
    """The sign-in was refused."""


@dataclass(frozen=True, slots=True)
class Browser:
    """Where an attempt comes from, and the session cookie that the browser had before it."""

    actor: Actor
    device: Device
    session_token: str | None = None


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A new session; its token goes into the session cookie."""

    user_id: UUID
    token: str
    continue_path: str


@dataclass(frozen=True, slots=True)
class SecondStep:
    """The password was right and a code is needed; the token goes into the challenge cookie."""

    token: str


@dataclass(frozen=True, slots=True)
class _Account:
    user_id: UUID
    identity_id: UUID
    password_hash: str | None
    is_active: bool


def with_password(
    services: Services,
    tenant: Tenant,
    browser: Browser,
    email: str,
    password: str,
    continue_path: str,
) -> SignedIn | SecondStep:
    """Judge an e-mail address and password.

    Raises SignInRefused, TooManyRequests with Retry-After, or Unavailable under load.
    """
    typed = users.typed_email(email)
    account, claims = _checked_password(services, tenant, browser, typed, password)
    with services.database.connection(tenant.id) as connection:
        known = account is not None and account.is_active
        if account is None or not known or not is_member(connection, tenant.id, account.user_id):
            reason = "NOT_A_MEMBER" if account else "WRONG_PASSWORD"
            _refused(connection, tenant, browser, reason, account.user_id if account else None)
            refusal = SignInRefused(REFUSED)
        else:
            throttle.forgive(connection, claims)
            if totp.is_enabled(connection, account.user_id):
                actor = replace(browser.actor, user_id=account.user_id)
                audit(connection, tenant.id, actor, "LOGIN_CHALLENGED", factor="totp")
                token = challenges.begin(
                    connection, services.master_key, tenant.id, "TOTP", continue_path,
                    user_id=account.user_id,
                )  # fmt: skip
                return SecondStep(token)
            return open_session(
                services, connection, tenant, browser, account.user_id, ["pwd"], continue_path
            )
    raise refusal


def with_code(
    services: Services, tenant: Tenant, browser: Browser, challenge_token: str, code: str
) -> SignedIn:
    """Judge the code of an authenticator app, or a recovery code, after the password.

    Raises SignInRefused and TooManyRequests.
    """
    with services.database.connection(tenant.id) as connection:
        challenge = challenges.attempt(
            connection, services.master_key, tenant.id, "TOTP", challenge_token
        )
        if challenge is None or challenge.user_id is None:
            _refused(connection, tenant, browser, "NO_CHALLENGE", None)
    if challenge is None or challenge.user_id is None:
        raise SignInRefused(TOO_LATE)
    user_id = challenge.user_id
    keys = {"FACTOR": str(user_id), "ADDRESS": throttled_unit(browser.actor.ip_address)}
    claims = _claimed(services, tenant, browser, keys, user_id)
    with services.database.connection(tenant.id) as connection:
        used = totp.use_code(connection, user_id, code)
        if used is None:
            _refused(connection, tenant, browser, "WRONG_CODE", user_id)
            refusal = SignInRefused(CODE_REFUSED)
        elif not is_member(connection, tenant.id, user_id) or not challenges.consume(
            connection, tenant.id, challenge
        ):
            _refused(connection, tenant, browser, "NO_CHALLENGE", user_id)
            refusal = SignInRefused(TOO_LATE)
        else:
            throttle.forgive(connection, claims)
            return open_session(
                services, connection, tenant, browser, user_id,
                ["pwd", "otp", "mfa"], challenge.continue_path, factor=used,
            )  # fmt: skip
    raise refusal


def accept_invitation(
    services: Services, tenant: Tenant, browser: Browser, token: str, password: str
) -> UUID:
    """Use an invitation link with a password; returns the user, who then signs in.

    The password becomes that of a new account, or proves the account that exists. Raises
    SignInRefused, TooManyRequests, passwords.PasswordRefused and, where somebody was quicker or no
    more users may be added, Conflict.
    """
    try:
        return _accept_by_password(services, tenant, browser, token, password)
    except Conflict:
        # What the attempt wrote is undone, its audit row too.
        refuse(services, tenant, browser, "NOT_ACCEPTED")
        raise


def _accept_by_password(
    services: Services, tenant: Tenant, browser: Browser, token: str, password: str
) -> UUID:
    with services.database.connection(tenant.id) as connection:
        invitation = invitations.find_by_token(connection, tenant.id, token)
        if invitation is None:
            _refused(connection, tenant, browser, "NO_INVITATION", None)
        else:
            known = connection.execute(
                "SELECT id FROM users WHERE email = %s", (invitation.email,)
            ).fetchone()
    if invitation is None:
        raise SignInRefused("this invitation has been used, or has ended; ask for a new one")
    if known is None:
        passwords.require_acceptable(password, invitation.email, invitation.full_name)
        hashed = passwords.hash_password(password)
        with services.database.connection(tenant.id) as connection:
            user_id = users.insert_user(connection, invitation.email, invitation.full_name)
            users.insert_password(connection, user_id, invitation.email, hashed)
            _accept(connection, tenant, browser, invitation, user_id)
        return user_id
    account, claims = _checked_password(services, tenant, browser, invitation.email, password)
    with services.database.connection(tenant.id) as connection:
        if account is not None and account.is_active:
            throttle.forgive(connection, claims)
            _accept(connection, tenant, browser, invitation, account.user_id)
            return account.user_id
        _refused(connection, tenant, browser, "WRONG_PASSWORD", None)
    raise SignInRefused(
        "there is an account with this e-mail address already: enter the password that it has"
    )


def confirm_password(
    services: Services, tenant: Tenant, browser: Browser, user_id: UUID, password: str
) -> None:
    """Ask a signed-in user for their password again, before something grave.

    Raises SignInRefused and TooManyRequests. What is done then writes the audit row.
    """
    with services.database.unbound_connection(tenant.id) as connection:
        row = connection.execute(
            "SELECT subject FROM user_auth_identities WHERE user_id = %s AND provider = 'PASSWORD'",
            (user_id,),
        ).fetchone()
    if row is None:
        raise Conflict("this account signs in with a provider and has no password here")
    account, claims = _checked_password(services, tenant, browser, row[0], password)
    with services.database.connection(tenant.id) as connection:
        if account is not None:
            throttle.forgive(connection, claims)
            return
        _refused(connection, tenant, browser, "WRONG_PASSWORD", user_id)
    raise SignInRefused("the password is not right")


def sign_out(services: Services, tenant: Tenant, browser: Browser) -> None:
    """End the browser's session, if it has one."""
    if browser.session_token is None:
        return
    with services.database.connection(tenant.id) as connection:
        ended = sessions.revoke_token(connection, tenant.id, browser.session_token)
        if ended is not None:
            actor = replace(browser.actor, user_id=ended[1])
            audit(connection, tenant.id, actor, "LOGOUT", "Session", ended[0])


def open_session(
    services: Services,
    connection: Connection,
    tenant: Tenant,
    browser: Browser,
    user_id: UUID,
    amr: Iterable[str],
    continue_path: str,
    **metadata: str,
) -> SignedIn:
    """Start a session under a new token, end the one that the browser had, and write both down."""
    if browser.session_token is not None:
        sessions.revoke_token(connection, tenant.id, browser.session_token)
    session_id, token = sessions.create(
        connection, tenant.id, user_id, browser.device, amr,
        timedelta(seconds=services.settings.session_seconds),
    )  # fmt: skip
    actor = replace(browser.actor, user_id=user_id)
    audit(connection, tenant.id, actor, "LOGIN_SUCCESS", "Session", session_id, **metadata)
    return SignedIn(user_id, token, continue_path)


def refuse(
    services: Services, tenant: Tenant, browser: Browser, reason: str, user_id: UUID | None = None
) -> None:
    """Write the audit row of an attempt that was refused before it came to a judgment."""
    with services.database.connection(tenant.id) as connection:
        _refused(connection, tenant, browser, reason, user_id)


def is_member(connection: Connection, tenant_id: UUID, user_id: UUID) -> bool:
    """Whether this user may sign in to this tenant."""
    row = connection.execute(
        "SELECT 1 FROM user_tenants AS m JOIN users AS u ON u.id = m.user_id"
        " WHERE m.tenant_id = %s AND m.user_id = %s AND m.status = 'ACTIVE' AND m.may_sign_in"
        " AND u.status = 'ACTIVE'",
        (tenant_id, user_id),
    ).fetchone()
    return row is not None


def _checked_password(
    services: Services, tenant: Tenant, browser: Browser, email: str, password: str
) -> tuple[_Account | None, list[throttle.Claim]]:
    """The account when the password is its own, else None, after the same work."""
    found = _account(services, tenant, email)
    user_id = found.user_id if found else None
    keys = {"ACCOUNT": email, "ADDRESS": throttled_unit(browser.actor.ip_address)}
    claims = _claimed(services, tenant, browser, keys, user_id)

    def judge() -> tuple[bool, str | None]:
        stored = found.password_hash if found else None
        if not passwords.verify_password(stored, password):
            return False, None
        outdated = stored is not None and passwords.needs_rehash(stored)
        return True, passwords.hash_password(password) if outdated else None

    is_right, better = _or_give_back(services, tenant, browser, claims, user_id, judge)
    if not is_right or found is None:
        return None, claims
    with services.database.unbound_connection(tenant.id) as connection:
        connection.execute(
            "UPDATE user_auth_identities SET last_used_at = now(),"
            " password_hash = coalesce(%s, password_hash),"
            " password_algorithm = CASE WHEN %s THEN 'ARGON2ID' ELSE password_algorithm END"
            " WHERE id = %s AND password_hash = %s",
            (better, better is not None, found.identity_id, found.password_hash),
        )
    return found, claims


def _account(services: Services, tenant: Tenant, email: str) -> _Account | None:
    with services.database.unbound_connection(tenant.id) as connection:
        row = connection.execute(
            "SELECT u.id, i.id, i.password_hash, u.status = 'ACTIVE' FROM user_auth_identities AS i"
            " JOIN users AS u ON u.id = i.user_id"
            " WHERE i.provider = 'PASSWORD' AND i.issuer IS NULL AND i.subject = %s",
            (email,),
        ).fetchone()
    return _Account(*row) if row else None


def _claimed(
    services: Services,
    tenant: Tenant,
    browser: Browser,
    keys: dict[str, str],
    user_id: UUID | None,
) -> list[throttle.Claim]:
    """Count the attempt; when it comes too soon, write that down and raise TooManyRequests."""
    try:
        with services.database.connection(tenant.id) as connection:
            return throttle.claim(connection, keys)
    except TooManyRequests:
        refuse(services, tenant, browser, "TOO_SOON", user_id)
        raise


def _or_give_back(
    services: Services,
    tenant: Tenant,
    browser: Browser,
    claims: list[throttle.Claim],
    user_id: UUID | None,
    work: Callable[[], T],
) -> T:
    """Do the work; an attempt that could not be judged is not a failed one."""
    try:
        return work()
    except ServerError:
        with services.database.connection(tenant.id) as connection:
            throttle.unclaim(connection, claims)
            _refused(connection, tenant, browser, "BUSY", user_id)
        raise


def _accept(
    connection: Connection,
    tenant: Tenant,
    browser: Browser,
    invitation: invitations.Invitation,
    user_id: UUID,
) -> None:
    invitations.accept(connection, tenant.id, invitation, user_id)
    actor = replace(browser.actor, user_id=user_id)
    audit(
        connection, tenant.id, actor, "CONFIG_CHANGED", "Invitation", invitation.id,
        action="invitation.accept",
    )  # fmt: skip


def _refused(
    connection: Connection, tenant: Tenant, browser: Browser, reason: str, user_id: UUID | None
) -> None:
    actor = replace(browser.actor, user_id=user_id)
    audit(connection, tenant.id, actor, "LOGIN_FAILED", outcome="FAILURE", reason=reason)

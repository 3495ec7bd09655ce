"""A dentist of the demo clinic, for whom the viewer asks: made once, password kept in a file."""

from __future__ import annotations

import secrets

from interop.command_line import Opened
from interop.errors import NotFound
from interop.identity import users
from interop.identity.actors import Actor
from interop.identity.passwords import hash_password
from interop.identity.roles import Grant
from storage.database import Connection
from storage.tenancy import Tenant

EMAIL, NAME = "dentist@harbour-street.example", "Dr. Robin Demo"
PASSWORD_FILE = "demo-password"  # noqa: S105 its name


def sign_in_of_dentist(interop: Opened, tenant: Tenant) -> tuple[str, str]:
    """The e-mail address and password with which the demo's pages are opened."""
    path = interop.settings.data_dir / PASSWORD_FILE
    with interop.database.connection(tenant.id) as connection:
        is_known = _is_member(connection, tenant)
        if is_known and path.exists():
            return EMAIL, path.read_text(encoding="ascii")
        password = secrets.token_urlsafe(12)
        hashed = hash_password(password)
        if is_known:
            user_id = users.find_member(connection, tenant.id, EMAIL)
            users.reset_password(connection, tenant.id, Actor.operator(), user_id, hashed)
        else:
            users.create_user(
                connection, tenant.id, Actor.operator(), email=EMAIL, full_name=NAME,
                user_type="DENTIST", password_hash=hashed, grants=[Grant("CLINICIAN")],
            )  # fmt: skip
    path.touch(mode=0o600)
    path.write_text(password, encoding="ascii")
    return EMAIL, password


def _is_member(connection: Connection, tenant: Tenant) -> bool:
    try:
        users.find_member(connection, tenant.id, EMAIL)
    except NotFound:
        return False
    return True

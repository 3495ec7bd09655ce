"""Settings, branding and quotas of a tenant: read, checked and changed with an audit row.

What a section holds is what its model declares; a value that its column's enum, range or type does
not admit is refused before the database sees it, with the name and what would be accepted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, LiteralString, cast
from urllib.parse import urlsplit
from uuid import UUID
from zoneinfo import available_timezones

from psycopg import sql
from psycopg.types.json import Jsonb

from storage.database import Connection
from storage.tenants.changes import OPERATOR, Actor, record_change, take_turns

SECTIONS: Mapping[str, LiteralString] = {
    "settings": "tenant_settings",
    "branding": "tenant_branding",
    "quota": "tenant_quotas",
}
_OWN = {"id", "tenant_id", "created_at", "created_by", "updated_at", "updated_by"}
# BCP 47 as far as software looks: language, script, region.
_LOCALE = re.compile(r"[a-z]{2,3}(-[A-Z][a-z]{3})?(-([A-Z]{2}|[0-9]{3}))?")
_CURRENCY = re.compile(r"[A-Z]{3}")
_EMAIL = re.compile(r"[^@\s]{1,64}@[A-Za-z0-9.-]{1,253}")
_LONGEST_TEXT = 2000


class InvalidConfiguration(ValueError):
    """A name or value that this section of the configuration does not take."""


def fields(section: str) -> list[str]:
    """The names that a section holds. Raises InvalidConfiguration for an unknown section."""
    if section not in SECTIONS:
        raise InvalidConfiguration(f"section {section!r}: one of {', '.join(SECTIONS)}")
    return [name for name in _columns(section) if name not in _OWN]


def read(connection: Connection, tenant_id: UUID, section: str) -> dict[str, Any]:
    """Every value of a section; where the tenant has no row, what a new row would hold is empty."""
    names = fields(section)
    row = connection.execute(
        sql.SQL("SELECT {} FROM {} WHERE tenant_id = %s").format(
            sql.SQL(", ").join(map(sql.Identifier, names)), sql.Identifier(SECTIONS[section])
        ),
        (tenant_id,),
    ).fetchone()
    return dict(zip(names, row or [None] * len(names), strict=True))


def change(
    connection: Connection,
    tenant_id: UUID,
    section: str,
    changes: Mapping[str, Any],
    actor: Actor = OPERATOR,
) -> dict[str, Any]:
    """Change values of a section and return it whole. Raises InvalidConfiguration.

    `connection` is bound to the tenant. Nothing is written when one value is wrong.
    """
    take_turns(connection, tenant_id)
    checked = {name: _check(section, name, value) for name, value in changes.items()}
    before = read(connection, tenant_id, section)
    _check_together(section, {**before, **checked})
    changed = {name: value for name, value in checked.items() if before[name] != value}
    if changed:
        names = [sql.Identifier(name) for name in changed]
        connection.execute(
            sql.SQL(
                "INSERT INTO {table} (tenant_id, {names}) VALUES (%s, {values})"
                " ON CONFLICT (tenant_id) DO UPDATE SET {updates}"
            ).format(
                table=sql.Identifier(SECTIONS[section]),
                names=sql.SQL(", ").join(names),
                values=sql.SQL(", ").join([sql.SQL("%s")] * len(names)),
                updates=sql.SQL(", ").join(sql.SQL("{0} = excluded.{0}").format(n) for n in names),
            ),
            (tenant_id, *(Jsonb(v) if isinstance(v, dict) else v for v in changed.values())),
        )
        said = {n: [_brief(before[n]), _brief(value)] for n, value in changed.items()}
        record_change(connection, tenant_id, SECTIONS[section].upper(), None, said, actor)
    return read(connection, tenant_id, section)


def from_text(section: str, name: str, text: str) -> Any:
    """What a word of the command line means for this field; 'null' is no value."""
    column = _column(section, name)
    if text == "null":
        return None
    wanted = _python_type(column)
    if wanted is bool:
        if text not in ("true", "false"):
            raise InvalidConfiguration(f"{name} {text!r}: true or false")
        return text == "true"
    if wanted is int:
        try:
            return int(text)
        except ValueError as error:
            raise InvalidConfiguration(f"{name} {text!r}: a whole number or null") from error
    if wanted is dict:
        try:
            return json.loads(text)
        except ValueError as error:
            raise InvalidConfiguration(f"{name}: a JSON object") from error
    return text


def _column(section: str, name: str) -> Any:
    known = fields(section)
    if name not in known:
        raise InvalidConfiguration(f"{name!r} is no {section}; there are {', '.join(known)}")
    return _columns(section)[name]


@cache
def _columns(section: str) -> dict[str, Any]:
    """The columns of a section as their model declares them."""
    # Loads SQLAlchemy: only a process where somebody administers tenants needs it.
    from storage.schema.tenants import TenantSettings

    tables = TenantSettings.metadata.tables
    return {column.name: column for column in tables[SECTIONS[section]].c}


def _check(section: str, name: str, value: Any) -> Any:
    column = _column(section, name)
    if value is None:
        if not column.nullable:
            raise InvalidConfiguration(f"{name} must have a value")
        return None
    wanted = _python_type(column)
    # A bool is an int to Python, and true is no number of seconds.
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise InvalidConfiguration(f"{name}: {wanted.__name__} expected, not {value!r}")
    if "values" in column.info and value not in column.info["values"]:
        raise InvalidConfiguration(f"{name} {value!r}: one of {', '.join(column.info['values'])}")
    if isinstance(value, int) and "range" in column.info:
        _check_range(name, value, column)
    if isinstance(value, str) and (len(value) > _LONGEST_TEXT or not value.isprintable()):
        raise InvalidConfiguration(f"{name}: up to {_LONGEST_TEXT} printable characters")
    accepts = _FORMS.get(name)
    if accepts is not None and not accepts[0](value):
        raise InvalidConfiguration(f"{name} {value!r}: {accepts[1]}")
    return value


def _check_range(name: str, value: int, column: Any) -> None:
    low, high = column.info["range"]
    # What the column's own type can hold.
    most = high if high is not None else (2**63 if "BIG" in str(column.type) else 2**31) - 1
    if (low is not None and value < low) or value > most:
        raise InvalidConfiguration(f"{name} {value}: from {low} to {most}")


def _check_together(section: str, values: Mapping[str, Any]) -> None:
    if section != "settings":
        return
    least, most = values["default_retention_min_years"], values["default_retention_max_years"]
    if least is not None and most is not None and most < least:
        raise InvalidConfiguration(
            f"default_retention_max_years {most} must not be less than"
            f" default_retention_min_years {least}"
        )


def _python_type(column: Any) -> type:
    found = cast("type", column.type.python_type)
    return dict if found is object else found  # JSONB, of which all are objects here


def _is_web_address(text: str) -> bool:
    parts = urlsplit(text)
    return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None


# Fields whose form their type does not say.
_FORMS: dict[str, tuple[Callable[[Any], object], str]] = {
    "locale": (_LOCALE.fullmatch, "a BCP 47 tag such as en or de-CH"),
    "time_zone": (lambda name: name in available_timezones(), "an IANA zone, e.g. Europe/Zurich"),
    "currency": (_CURRENCY.fullmatch, "an ISO 4217 code such as USD"),
    "support_email": (_EMAIL.fullmatch, "an e-mail address"),
    "website_url": (_is_web_address, "an http or https address without credentials"),
}


def _brief(value: Any) -> Any:
    """What the audit trail says of a value: templates and colours are not for it."""
    return "(object)" if isinstance(value, dict) else value

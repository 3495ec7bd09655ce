"""The sections of a tenant's configuration as /api/v1 shows them, and the version that each has.

The command line names the same versions, so that what was read by one door is not overwritten
unseen by the other (security.md C12).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from interop.administration.quota_routes import Quotas
from interop.administration.tenant_routes import Branding, Settings
from interop.administration.versions import etag, require_match
from storage.database import Connection
from storage.tenants import configuration
from storage.tenants.changes import OPERATOR, take_turns

QUOTE = '"'
SECTIONS: Mapping[str, type[BaseModel]] = {
    "settings": Settings,
    "branding": Branding,
    "quota": Quotas,
}


def version_of(section: str, values: Mapping[str, Any]) -> str:
    """The version of what a section holds: its ETag without the quotes."""
    return etag(_model(section, values)).strip(QUOTE)


def change(
    connection: Connection,
    tenant_id: UUID,
    section: str,
    wanted: Mapping[str, Any],
    version: str | None,
) -> None:
    """Change a section as the operator; where a version is named, only if it has that one still.

    Raises PreconditionFailed, and InvalidConfiguration for a wrong value.
    """
    take_turns(connection, tenant_id)
    if version is not None:
        current = configuration.read(connection, tenant_id, section)
        require_match(f'"{version.strip().strip(QUOTE)}"', _model(section, current))
    configuration.change(connection, tenant_id, section, wanted, OPERATOR)


def _model(section: str, values: Mapping[str, Any]) -> BaseModel:
    # What is stored was checked when it was written, perhaps by another version's rules.
    return SECTIONS[section].model_construct(**values)

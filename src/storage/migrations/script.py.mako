"""${message}

Revision ID: ${up_revision}
Revises: ${down_revision | comma,n}

Two parts, of which one may be None. `once` runs once in every database: global tables, tables that
tenants share with the platform (tenant_id may be NULL), functions, views. `for_tenants` runs after
it, and again in the schema of every SCHEMA tenant: tables with a tenant in every row, their
indexes, triggers, policies and grants. There:

- Names are without a schema: the search path leads to the place.
- A function or global table changes before the tables of tenants do, in all places. So it must
  work with both; what is dropped is dropped by a later revision.
- Rows are changed between NO FORCE and FORCE ROW LEVEL SECURITY, which holds for the owner too.
- A table made here gets what `storage.migrations.row_security.protect` says, written out.

After it a tenant's schema must be what `public` is (`storage.partitions.schemas.differences`), else
nothing of it is kept, and the tenant is not served until a corrected revision ran.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

from storage.migrations import parts
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def once(op: Operations) -> None:
    pass


def for_tenants(op: Operations) -> None:
    ${upgrades if upgrades else "pass"}


upgrade = parts(once, for_tenants)

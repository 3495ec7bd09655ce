"""Triggers, derived from the models: provenance, guarded references, and stale FHIR resources.

A row that changes outside the lenses marks the FHIR resource of that row stale (design.md 1). The
triggers are statement-level with transition tables, so a bulk change costs one statement more and
not one per row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from sqlalchemy import MetaData

from storage.schema.presentation import PRESENTED, Presented, source_of


def statements(metadata: MetaData) -> Iterator[str]:
    """All triggers, with the functions that are generated for them."""
    for table in metadata.sorted_tables:
        if "updated_at" in table.c:
            yield (
                f"CREATE TRIGGER touch_row BEFORE UPDATE ON {table.name}"
                " FOR EACH ROW EXECUTE FUNCTION touch_row()"
            )
        for column in table.c:
            kind, target, _ = column.info.get("link", (None, None, None))
            if kind == "platform":
                yield (
                    f"CREATE TRIGGER guard_{column.name}"
                    f" BEFORE INSERT OR UPDATE OF {column.name}, tenant_id ON {table.name}"
                    " FOR EACH ROW EXECUTE FUNCTION"
                    f" refuse_foreign_platform_row('{column.name}', '{target}')"
                )
    yield from staleness(PRESENTED)


# Catalogues that only the owner of the database writes, for all tenants.
CATALOGUES = frozenset(
    {
        "code_systems",
        "code_values",
        "drug_reference",
        "material_reference",
        "equipment_reference",
        "roles",
    }
)


def staleness(presented: Mapping[str, Iterable[Presented]]) -> Iterator[str]:
    """The functions and triggers that mark resources stale."""
    for table, resources in presented.items():
        # What a resource shows through a row that comes or goes cannot be there yet, or any more.
        always = [
            (item.rows(table, "changed"), item) for item in resources if item.follows_arrivals
        ]
        yield _function(f"stale_{table}_changed", table, "changed", always)
        # An update may have moved a row from one resource to another: both are stale.
        both = "(SELECT * FROM changed UNION ALL SELECT * FROM former)"
        moved = [
            (item.rows(table, _changed_in(item.when) if item.when else both), item)
            for item in resources
        ]
        yield _function(f"stale_{table}_moved", table, both, moved)
        for event, transition, name in (
            ("INSERT", "NEW TABLE AS changed", "changed"),
            ("DELETE", "OLD TABLE AS changed", "changed"),
            ("UPDATE", "OLD TABLE AS former NEW TABLE AS changed", "moved"),
        ):
            yield (
                f"CREATE TRIGGER stale_on_{event.lower()} AFTER {event} ON {table}"
                f" REFERENCING {transition} FOR EACH STATEMENT"
                f" EXECUTE FUNCTION stale_{table}_{name}()"
            )


def _changed_in(columns: Sequence[str]) -> str:
    """The changed rows of which one of the columns is another."""
    now = ", ".join(f"c.{column}" for column in columns)
    before = ", ".join(f"f.{column}" for column in columns)
    return (
        "(SELECT c.* FROM changed AS c JOIN former AS f ON f.tenant_id = c.tenant_id"
        f" AND f.id = c.id WHERE ({now}) IS DISTINCT FROM ({before}))"
    )


def _function(name: str, table: str, changed: str, sources: Iterable[tuple[str, Presented]]) -> str:
    condition = "AND rows.tenant_id = home.id" if table in CATALOGUES else ""
    marks = "\n".join(_mark(source, resource, condition) for source, resource in sources)
    tenants = source_of(table).format(rows=changed)
    notice = f"""\
    IF total > 0 THEN
        PERFORM pg_notify('fhir_stale', tenant_id::text)
        FROM (SELECT DISTINCT tenant_id FROM ({tenants}) AS rows) AS tenants;
    END IF;
"""
    body = _for_every_tenant(marks) if table in CATALOGUES else marks + notice
    return f"""
CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql SECURITY INVOKER AS $$
DECLARE
    marked bigint;
    total bigint := 0;
    home record;
    former_path text := current_setting('search_path');
    former_tenant text := coalesce(current_setting('app.tenant', true), '');
BEGIN
    -- A lens writes its rows and renders the resource itself.
    IF current_setting('app.lens', true) = 'on' THEN
        RETURN NULL;
    END IF;
{body}
    RETURN NULL;
END;
$$
"""


def _for_every_tenant(marks: str) -> str:
    """The marks in the place of each tenant, or of the one that the writer is bound to."""
    return f"""\
    FOR home IN
        SELECT t.id, t.place FROM tenants AS t
        WHERE t.place NOT IN ('', '-') AND former_tenant IN ('', t.id::text) ORDER BY t.id
    LOOP
        PERFORM set_config('search_path', home.place || ', public', true),
            set_config('app.tenant', home.id::text, true);
        total := 0;
{marks}
        IF total > 0 THEN
            PERFORM pg_notify('fhir_stale', home.id::text);
        END IF;
    END LOOP;
    PERFORM set_config('search_path', former_path, true),
        set_config('app.tenant', former_tenant, true);
"""


def _mark(source: str, resource: Presented, condition: str = "") -> str:
    """Mark the resource of each row, or make its stub; in one order, so that nobody deadlocks.

    ON CONFLICT locks the resource even where it is stale already: a reader that is rendering it
    then waits for this transaction, or this transaction for the reader. A row whose own id another
    resource has (a client's, or one that was withdrawn) is presented under a new one.

    `own_id` is made below the DISTINCT, where the planner leaves it: a cast in the comparison is
    not leakproof, so under row-level security it would keep the index from being used. OFFSET 0
    has all ids looked for before the first stub is inserted: else each search would walk over the
    stubs made so far, and 20,000 patients in one statement took 40 s.
    """
    return f"""\
    INSERT INTO fhir_resources AS known (tenant_id, resource_type, resource_id, row_id, version,
        last_updated, body, stale)
    SELECT presented.tenant_id, '{resource.resource_type}',
        CASE WHEN presented.is_taken THEN gen_random_uuid()::text ELSE presented.own_id END,
        presented.row_id, 0, now(), '', true
    FROM (
        SELECT wanted.*, EXISTS (
            SELECT FROM fhir_resources AS other
            WHERE other.tenant_id = wanted.tenant_id
                AND other.resource_type = '{resource.resource_type}'
                AND other.resource_id = wanted.own_id
                AND other.row_id IS DISTINCT FROM wanted.row_id
        ) AS is_taken
        FROM (
            SELECT DISTINCT tenant_id, {resource.column} AS row_id,
                {resource.column}::text AS own_id
            FROM ({source}) AS rows WHERE {resource.column} IS NOT NULL {condition}
        ) AS wanted
        OFFSET 0
    ) AS presented
    ORDER BY presented.tenant_id, presented.row_id
    ON CONFLICT (tenant_id, resource_type, row_id) DO UPDATE SET stale = true
        WHERE NOT known.stale;
    GET DIAGNOSTICS marked = ROW_COUNT;
    total := total + marked;
"""

-- Searches: the query of a page (storage.search_pages) is a statement of its own, which begins with
-- fhir_begin_search and ends with fhir_log_search.

-- Bind the transaction to a tenant. With p_keeps_plan its queries are planned without their values,
-- once a connection: what storage.search_pages says of queries whose plan must not depend on them.
CREATE OR REPLACE FUNCTION fhir_begin_search(p_tenant uuid, p_keeps_plan boolean) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
DECLARE
    ignored text;
BEGIN
    ignored := fhir_begin_read(p_tenant);
    ignored := set_config('plan_cache_mode',
        CASE WHEN p_keeps_plan THEN 'force_generic_plan' ELSE 'auto' END, true);
END;
$$;

-- The audit row of a page and whose data it showed; false, and nothing, where the page is to be
-- asked for again: once what is stale is rendered, or in another way where too many were met.
CREATE OR REPLACE FUNCTION fhir_log_search(p_tenant uuid, p_audit jsonb, p_patients uuid[],
        p_is_stale boolean, p_is_many boolean) RETURNS boolean
    LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
DECLARE
    ignored text;
BEGIN
    IF p_is_many OR (p_is_stale AND NOT p_audit ? 'even_if_stale') THEN
        RETURN false;
    END IF;
    IF cardinality(p_patients) = 1 THEN
        ignored := write_audit_event(p_tenant, p_audit, p_patients[1]);
    ELSE
        ignored := write_phi_accesses(p_tenant, write_audit_event(p_tenant, p_audit), p_audit,
            p_patients);
    END IF;
    RETURN true;
END;
$$;

-- The resource types that a tenant has anything of: a step of the index for each, not a scan.
CREATE OR REPLACE FUNCTION fhir_types(p_tenant uuid) RETURNS SETOF text
    LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
BEGIN
    PERFORM fhir_begin_read(p_tenant);
    RETURN QUERY
        WITH RECURSIVE known AS (
            (SELECT r.resource_type AS of_type FROM fhir_resources AS r
                WHERE r.tenant_id = p_tenant ORDER BY r.resource_type LIMIT 1)
            UNION ALL
            SELECT (SELECT r.resource_type FROM fhir_resources AS r
                WHERE r.tenant_id = p_tenant AND r.resource_type > k.of_type
                ORDER BY r.resource_type LIMIT 1)
            FROM known AS k WHERE k.of_type IS NOT NULL
        )
        SELECT k.of_type::text FROM known AS k WHERE k.of_type IS NOT NULL;
END;
$$;

-- How many rows the planner expects of a query that storage.search_pages built.
CREATE OR REPLACE FUNCTION fhir_estimate(p_tenant uuid, p_query text, p_values text[])
    RETURNS SETOF bigint LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
DECLARE
    plan json;
BEGIN
    PERFORM fhir_begin_read(p_tenant);
    EXECUTE 'EXPLAIN (FORMAT JSON) ' || p_query INTO plan USING p_tenant, p_values;
    RETURN NEXT (plan -> 0 -> 'Plan' ->> 'Plan Rows')::numeric::bigint;
END;
$$;

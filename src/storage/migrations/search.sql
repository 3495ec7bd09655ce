-- What searches over several types, and estimated totals, ask beside fhir_search (read_model.sql).

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

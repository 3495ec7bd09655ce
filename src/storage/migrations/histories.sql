-- Histories of a resource, a type and the whole server (FHIR R4 http.html#history): versions of
-- fhir_history in the order of time. All run with the caller's rights, as in read_model.sql.

-- A page of versions. p_types NULL: all. p_at_low, p_at_high: only versions that were the current one
-- at some moment in between. p_after: the version that the page before ended with, as
-- {"time", "type", "id", "version"}. p_for_judging: each deletion comes with the version that it
-- deleted (judged_version, judged_body), by which it is to be judged, and nothing is audited.
-- A row of kind "stale" says that something must be rendered first, and comes alone and unaudited
-- unless p_audit has "even_if_stale"; one of kind "known", that the resource p_id has versions.
CREATE OR REPLACE FUNCTION fhir_history_page(p_tenant uuid, p_types text[], p_id text,
        p_since timestamptz, p_at_low timestamptz, p_at_high timestamptz, p_after jsonb,
        p_ascending boolean, p_limit int, p_for_judging boolean, p_audit jsonb)
    RETURNS TABLE (kind text, resource_type text, resource_id text, row_id uuid, version bigint,
        last_updated timestamptz, method text, body text, judged_version bigint,
        judged_body text)
    LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
DECLARE
    direction constant text := CASE WHEN p_ascending THEN 'ASC' ELSE 'DESC' END;
    sign constant text := CASE WHEN p_ascending THEN '>' ELSE '<' END;
    conditions text := '';
    types text[] := '{}';
    ids text[] := '{}';
    count int := 0;
BEGIN
    PERFORM fhir_begin_read(p_tenant);
    IF NOT coalesce(p_audit ? 'even_if_stale', false) AND EXISTS (
            SELECT FROM fhir_resources AS r WHERE r.tenant_id = p_tenant AND r.stale
                AND (p_types IS NULL OR r.resource_type = ANY (p_types))
                AND (p_id IS NULL OR r.resource_id = p_id)) THEN
        kind := 'stale';
        RETURN NEXT;
        RETURN;
    END IF;
    IF cardinality(p_types) = 1 THEN
        conditions := ' AND h.resource_type = ($2)[1]';
    ELSIF p_types IS NOT NULL THEN
        conditions := ' AND h.resource_type = ANY ($2)';
    END IF;
    IF p_id IS NOT NULL THEN
        conditions := conditions || ' AND h.resource_id = $3';
    END IF;
    IF p_since IS NOT NULL THEN
        conditions := conditions || ' AND h.last_updated >= $4';
    END IF;
    IF p_at_high IS NOT NULL THEN
        conditions := conditions || ' AND h.last_updated < $6 AND NOT EXISTS (
            SELECT FROM fhir_history AS n WHERE n.tenant_id = $1
                AND n.resource_type = h.resource_type AND n.resource_id = h.resource_id
                AND n.version = h.version + 1 AND n.last_updated <= $5)';
    END IF;
    IF p_after IS NOT NULL THEN
        -- The first condition finds the place in the index of times.
        conditions := conditions || format(
            ' AND h.last_updated %1$s= ($7 ->> ''time'')::timestamptz AND (h.last_updated,
                h.resource_type, h.resource_id, h.version) %1$s (($7 ->> ''time'')::timestamptz,
                ($7 ->> ''type'') COLLATE "C", ($7 ->> ''id'') COLLATE "C",
                ($7 ->> ''version'')::bigint)', sign);
    END IF;
    FOR kind, resource_type, resource_id, row_id, version, last_updated, method, body,
            judged_version, judged_body IN EXECUTE
        'SELECT ''version'', h.resource_type, h.resource_id, '
        || CASE WHEN p_for_judging THEN 'r.row_id' ELSE 'NULL::uuid' END
        || ', h.version, h.last_updated, h.method, h.body, '
        || CASE WHEN p_for_judging THEN 'd.version, d.body' ELSE 'NULL::bigint, NULL::text' END
        || ' FROM fhir_history AS h'
        || CASE WHEN p_for_judging THEN
            ' LEFT JOIN fhir_resources AS r ON r.tenant_id = $1
                AND r.resource_type = h.resource_type AND r.resource_id = h.resource_id
              LEFT JOIN LATERAL (SELECT o.version, o.body FROM fhir_history AS o
                WHERE h.body IS NULL AND o.tenant_id = $1 AND o.resource_type = h.resource_type
                    AND o.resource_id = h.resource_id AND o.version < h.version
                    AND o.body IS NOT NULL
                ORDER BY o.version DESC LIMIT 1) AS d ON true'
            ELSE '' END
        || ' WHERE h.tenant_id = $1' || conditions
        || format(' ORDER BY h.last_updated %1$s, h.resource_type %1$s, h.resource_id %1$s,
            h.version %1$s LIMIT $8', direction)
        USING p_tenant, p_types, p_id, p_since, p_at_low, p_at_high, p_after, p_limit LOOP
        count := count + 1;
        -- The last of a full page only says that there is a next one: nobody is shown it.
        IF count < p_limit THEN
            types := types || resource_type;
            ids := ids || resource_id;
        END IF;
        RETURN NEXT;
    END LOOP;
    IF count = 0 AND p_id IS NOT NULL AND EXISTS (
            SELECT FROM fhir_history AS h WHERE h.tenant_id = p_tenant
                AND h.resource_type = ANY (p_types) AND h.resource_id = p_id) THEN
        kind := 'known';
        count := 1;
        RETURN NEXT;
    END IF;
    IF NOT p_for_judging THEN
        IF count = 0 AND p_id IS NOT NULL THEN
            p_audit := p_audit || '{"outcome": "FAILURE"}';
        END IF;
        PERFORM fhir_audit_shown(p_tenant, types, ids, p_audit);
    END IF;
END;
$$;

-- The audit row of what showed these resources, and the log of accesses to each of their patients.
CREATE OR REPLACE FUNCTION fhir_audit_shown(p_tenant uuid, p_types text[], p_ids text[],
        p_audit jsonb)
    RETURNS void LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
DECLARE
    patients uuid[];
    event uuid;
BEGIN
    PERFORM fhir_begin_read(p_tenant);
    SELECT coalesce(array_agg(DISTINCT r.patient_id), '{}') INTO patients
    FROM unnest(p_types, p_ids) AS seen(of_type, id)
    JOIN fhir_resources AS r ON r.tenant_id = p_tenant AND r.resource_type = seen.of_type
        AND r.resource_id = seen.id
    WHERE r.patient_id IS NOT NULL;
    IF cardinality(patients) = 1 THEN
        PERFORM write_audit_event(p_tenant, p_audit, patients[1]);
    ELSE
        event := write_audit_event(p_tenant, p_audit);
        PERFORM write_phi_accesses(p_tenant, event, p_audit, patients);
    END IF;
END;
$$;

-- How many versions there are of what a page would go through; audited where p_audit is given.
CREATE OR REPLACE FUNCTION fhir_history_count(p_tenant uuid, p_types text[], p_id text,
        p_since timestamptz, p_at_low timestamptz, p_at_high timestamptz, p_audit jsonb)
    RETURNS TABLE (total bigint) LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
BEGIN
    PERFORM fhir_begin_read(p_tenant);
    RETURN QUERY SELECT count(*) FROM fhir_history AS h
        WHERE h.tenant_id = p_tenant
            AND (p_types IS NULL OR h.resource_type = ANY (p_types))
            AND (p_id IS NULL OR h.resource_id = p_id)
            AND (p_since IS NULL OR h.last_updated >= p_since)
            AND (p_at_high IS NULL OR (h.last_updated < p_at_high AND NOT EXISTS (
                SELECT FROM fhir_history AS n WHERE n.tenant_id = p_tenant
                    AND n.resource_type = h.resource_type AND n.resource_id = h.resource_id
                    AND n.version = h.version + 1 AND n.last_updated <= p_at_low)));
    IF p_audit IS NOT NULL THEN
        PERFORM write_audit_event(p_tenant, p_audit - 'phi_action');
    END IF;
END;
$$;

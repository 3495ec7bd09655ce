-- Reads of callers who may not see the whole tenant. The conditions are built by
-- storage.resource_visibility and interop.fhir.visibility, which bind every value in p_values ($2)
-- and the tenant as $1. All run with the caller's rights, as the functions of read_model.sql do.

-- The current version of a resource that meets p_condition on the row r, audited. What does not meet
-- it is answered like what is not there; the audit row alone says why. A stale or deleted one comes
-- without body and audit row: the caller renders the one and judges the other by its last content.
CREATE OR REPLACE FUNCTION fhir_read_within(p_tenant uuid, p_type text, p_id text,
        p_condition text, p_but_for_consent text, p_values text[], p_audit jsonb)
    RETURNS TABLE (row_id uuid, version bigint, last_updated timestamptz, deleted boolean,
        stale boolean, body text)
    LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
DECLARE
    source constant text := 'SELECT r.row_id, r.version, r.last_updated, r.deleted, r.stale, r.body
        FROM fhir_resources AS r WHERE r.tenant_id = $1 AND r.resource_type = $3
            AND r.resource_id = $4';
    is_visible boolean;
    lacks_consent boolean := false;
BEGIN
    PERFORM fhir_begin_read(p_tenant);
    EXECUTE source || ' AND (r.stale OR r.deleted OR ' || p_condition || ')'
        INTO row_id, version, last_updated, deleted, stale, body
        USING p_tenant, p_values, p_type, p_id;
    is_visible := version IS NOT NULL;
    IF is_visible AND (stale OR deleted) THEN
        body := '';
        RETURN NEXT;
        RETURN;
    END IF;
    IF NOT is_visible THEN
        IF p_but_for_consent IS NOT NULL THEN
            EXECUTE 'SELECT EXISTS (' || source || ' AND ' || p_but_for_consent || ')'
                INTO lacks_consent USING p_tenant, p_values, p_type, p_id;
        END IF;
        -- Nothing of the patient was shown.
        p_audit := (p_audit - 'phi_action') || '{"outcome": "FAILURE"}'
            || jsonb_build_object('metadata', coalesce(p_audit -> 'metadata', '{}')
                || jsonb_build_object('refused', CASE WHEN lacks_consent THEN 'consent'
                    ELSE 'not found among what may be seen' END));
    END IF;
    PERFORM fhir_audit_write(p_tenant, p_type, p_id, p_audit);
    IF is_visible THEN
        RETURN NEXT;
    END IF;
END;
$$;

-- Versions of a resource, newest first, and the row that it stands for; not audited.
CREATE OR REPLACE FUNCTION fhir_versions(p_tenant uuid, p_type text, p_id text, p_version bigint,
        p_before bigint, p_limit int)
    RETURNS TABLE (row_id uuid, version bigint, last_updated timestamptz, method text, body text)
    LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
BEGIN
    PERFORM fhir_begin_read(p_tenant);
    RETURN QUERY
        SELECT r.row_id, h.version, h.last_updated, h.method, h.body
        FROM fhir_history AS h
        LEFT JOIN fhir_resources AS r ON r.tenant_id = p_tenant AND r.resource_type = p_type
            AND r.resource_id = p_id
        WHERE h.tenant_id = p_tenant AND h.resource_type = p_type AND h.resource_id = p_id
            AND (p_version IS NULL OR h.version = p_version)
            AND (p_before IS NULL OR h.version < p_before)
        ORDER BY h.version DESC
        LIMIT p_limit;
END;
$$;

-- The names of those candidates, versions given as search rows ($3), that meet a condition.
CREATE OR REPLACE FUNCTION fhir_judge(p_tenant uuid, p_query text, p_values text[],
        p_candidates jsonb)
    RETURNS SETOF text LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
BEGIN
    PERFORM enter_tenant(p_tenant);
    RETURN QUERY EXECUTE p_query USING p_tenant, p_values, p_candidates;
END;
$$;

-- The audit row of a read that took several steps.
CREATE OR REPLACE FUNCTION fhir_audit_read(p_tenant uuid, p_type text, p_id text, p_audit jsonb)
    RETURNS void LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
BEGIN
    PERFORM fhir_begin_read(p_tenant);
    PERFORM fhir_audit_write(p_tenant, p_type, p_id, p_audit);
END;
$$;

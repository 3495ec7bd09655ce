-- The FHIR read model's hot paths: one call each, so that a request is one round trip (fhir.md,
-- "Hot paths in one round trip"). All run with the caller's rights: row-level security holds inside
-- them, and every statement carries the tenant besides.

-- Bind the transaction to a tenant. An answer to a reader need not wait for the disk: only a crash
-- of the database in the next moments can lose its audit row.
CREATE OR REPLACE FUNCTION fhir_begin_read(p_tenant uuid) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
DECLARE
    ignored text;
BEGIN
    -- An assignment is evaluated as it stands; PERFORM would run a statement of its own.
    ignored := enter_tenant(p_tenant);
    ignored := set_config('synchronous_commit', 'off', true);
END;
$$;

-- The current version of a resource, audited. A stale one is returned without its body and without
-- an audit row: the caller renders it and asks again.
CREATE OR REPLACE FUNCTION fhir_read(p_tenant uuid, p_type text, p_id text, p_audit jsonb)
    RETURNS TABLE (version bigint, last_updated timestamptz, deleted boolean, stale boolean,
        body text)
    LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
DECLARE
    patient uuid;
    ignored text;
BEGIN
    ignored := enter_tenant(p_tenant);
    ignored := set_config('synchronous_commit', 'off', true);
    SELECT r.version, r.last_updated, r.deleted, r.stale, r.body, r.patient_id
        INTO version, last_updated, deleted, stale, body, patient
        FROM fhir_resources AS r
        WHERE r.tenant_id = p_tenant AND r.resource_type = p_type AND r.resource_id = p_id;
    IF version IS NULL OR deleted THEN
        p_audit := p_audit || '{"outcome": "FAILURE"}';
    END IF;
    IF NOT coalesce(stale, false) THEN
        ignored := write_audit_event(p_tenant, p_audit, patient);
    END IF;
    IF version IS NOT NULL THEN
        RETURN NEXT;
    END IF;
END;
$$;

-- One version of a resource, or with p_version NULL all of them, newest first, audited.
CREATE OR REPLACE FUNCTION fhir_read_history(p_tenant uuid, p_type text, p_id text,
        p_version bigint, p_before bigint, p_limit int, p_audit jsonb)
    RETURNS TABLE (version bigint, last_updated timestamptz, method text, body text)
    LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
BEGIN
    PERFORM fhir_begin_read(p_tenant);
    RETURN QUERY
        SELECT h.version, h.last_updated, h.method, h.body
        FROM fhir_history AS h
        WHERE h.tenant_id = p_tenant AND h.resource_type = p_type AND h.resource_id = p_id
            AND (p_version IS NULL OR h.version = p_version)
            AND (p_before IS NULL OR h.version < p_before)
        ORDER BY h.version DESC
        LIMIT p_limit;
    IF NOT FOUND THEN
        p_audit := p_audit || '{"outcome": "FAILURE"}';
    END IF;
    PERFORM write_audit_event(p_tenant, p_audit, (
        SELECT r.patient_id FROM fhir_resources AS r
        WHERE r.tenant_id = p_tenant AND r.resource_type = p_type AND r.resource_id = p_id));
END;
$$;

-- The audit row of a write, in its transaction and after it, so that the patient is known.
CREATE OR REPLACE FUNCTION fhir_audit_write(p_tenant uuid, p_type text, p_id text, p_audit jsonb)
    RETURNS void LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
BEGIN
    PERFORM write_audit_event(p_tenant, p_audit, (
        SELECT r.patient_id FROM fhir_resources AS r
        WHERE r.tenant_id = p_tenant AND r.resource_type = p_type AND r.resource_id = p_id));
END;
$$;

-- A search: p_query is built by storage.resource_search, which binds every value of the client in
-- p_values ($2) and the tenant as $1. Planned anew each time, with the values known. Where rows say
-- that something is stale there is no audit row yet, unless p_audit has "even_if_stale". Every
-- patient of whom the page ("page_size" matches and what is included) shows something is logged.
CREATE OR REPLACE FUNCTION fhir_search(p_tenant uuid, p_query text, p_values text[], p_audit jsonb)
    RETURNS TABLE (kind text, ordinal bigint, resource_type text, resource_id text, version bigint,
        last_updated timestamptz, sort_keys text[], body text)
    LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
DECLARE
    page_size bigint := p_audit -> 'page_size';
    is_stale boolean := false;
    types text[] := '{}';
    ids text[] := '{}';
    patients uuid[] := '{}';
    event uuid;
BEGIN
    PERFORM fhir_begin_read(p_tenant);
    FOR kind, ordinal, resource_type, resource_id, version, last_updated, sort_keys, body IN
            EXECUTE p_query USING p_tenant, p_values LOOP
        IF kind = 'stale' THEN
            is_stale := true;
        ELSIF kind = 'include' OR (kind = 'match' AND ordinal <= page_size) THEN
            types := types || resource_type;
            ids := ids || resource_id;
        END IF;
        RETURN NEXT;
    END LOOP;
    IF is_stale AND NOT p_audit ? 'even_if_stale' THEN
        RETURN;
    END IF;
    IF cardinality(ids) > 0 THEN
        SELECT coalesce(array_agg(DISTINCT r.patient_id), '{}') INTO patients
        FROM unnest(types, ids) AS seen(of_type, id)
        JOIN fhir_resources AS r ON r.tenant_id = p_tenant AND r.resource_type = seen.of_type
            AND r.resource_id = seen.id
        WHERE r.patient_id IS NOT NULL;
    END IF;
    IF cardinality(patients) = 1 THEN
        PERFORM write_audit_event(p_tenant, p_audit, patients[1]);
    ELSE
        event := write_audit_event(p_tenant, p_audit);
        PERFORM write_phi_accesses(p_tenant, event, p_audit, patients);
    END IF;
END;
$$;

-- The search rows of many resources: p_entries is [{"type", "id", "replace": whether there are rows
-- already, "rows": {"token": [[parameter, ordinal, cluster, ...], ...], ...}}, ...].
CREATE OR REPLACE FUNCTION fhir_write_search_rows(p_tenant uuid, p_entries jsonb)
    RETURNS void LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
DECLARE
    e jsonb;
BEGIN
    PERFORM fhir_check_search_epoch(p_tenant, p_entries);
    -- One resource at a time, so that each DELETE is a look-up by its key.
    FOR e IN SELECT v FROM jsonb_array_elements(p_entries) AS v WHERE v -> 'replace' = 'true' LOOP
        PERFORM fhir_delete_search_rows(p_tenant, e ->> 'type', e ->> 'id');
    END LOOP;
    IF jsonb_path_exists(p_entries, '$[*].rows.token') THEN
        INSERT INTO fhir_search_token (tenant_id, resource_type, resource_id, parameter, ordinal,
            cluster, system, code)
        SELECT p_tenant, v ->> 'type', v ->> 'id', r ->> 0, (r ->> 1)::int, (r ->> 2)::int,
            r ->> 3, r ->> 4
        FROM jsonb_array_elements(p_entries) AS v, jsonb_array_elements(v -> 'rows' -> 'token') AS r;
    END IF;
    IF jsonb_path_exists(p_entries, '$[*].rows.string') THEN
        INSERT INTO fhir_search_string (tenant_id, resource_type, resource_id, parameter, ordinal,
            cluster, value, value_exact)
        SELECT p_tenant, v ->> 'type', v ->> 'id', r ->> 0, (r ->> 1)::int, (r ->> 2)::int,
            r ->> 3, r ->> 4
        FROM jsonb_array_elements(p_entries) AS v, jsonb_array_elements(v -> 'rows' -> 'string') AS r;
    END IF;
    IF jsonb_path_exists(p_entries, '$[*].rows.gram') THEN
        INSERT INTO fhir_search_gram (tenant_id, resource_type, gram, resource_id)
        SELECT p_tenant, v ->> 'type', g, v ->> 'id'
        FROM jsonb_array_elements(p_entries) AS v,
            jsonb_array_elements_text(v -> 'rows' -> 'gram') AS g
        -- Another parameter may have brought the same three characters.
        ON CONFLICT DO NOTHING;
    END IF;
    INSERT INTO fhir_search_text (tenant_id, resource_type, resource_id, narrative, content)
    SELECT p_tenant, v ->> 'type', v ->> 'id', v -> 'rows' -> 'text' ->> 0,
        v -> 'rows' -> 'text' ->> 1
    FROM jsonb_array_elements(p_entries) AS v WHERE v -> 'rows' ? 'text';
    IF jsonb_path_exists(p_entries, '$[*].rows.reference') THEN
        INSERT INTO fhir_search_reference (tenant_id, resource_type, resource_id, parameter, ordinal,
            cluster, target_type, target_id, target_url, target_version,
            identifier_system, identifier_value)
        SELECT p_tenant, v ->> 'type', v ->> 'id', r ->> 0, (r ->> 1)::int, (r ->> 2)::int,
            r ->> 3, r ->> 4, r ->> 5, r ->> 6, r ->> 7, r ->> 8
        FROM jsonb_array_elements(p_entries) AS v, jsonb_array_elements(v -> 'rows' -> 'reference') AS r;
    END IF;
    IF jsonb_path_exists(p_entries, '$[*].rows.date') THEN
        INSERT INTO fhir_search_date (tenant_id, resource_type, resource_id, parameter, ordinal,
            cluster, low, high)
        SELECT p_tenant, v ->> 'type', v ->> 'id', r ->> 0, (r ->> 1)::int, (r ->> 2)::int,
            (r ->> 3)::timestamptz, (r ->> 4)::timestamptz
        FROM jsonb_array_elements(p_entries) AS v, jsonb_array_elements(v -> 'rows' -> 'date') AS r;
    END IF;
    IF jsonb_path_exists(p_entries, '$[*].rows.number') THEN
        INSERT INTO fhir_search_number (tenant_id, resource_type, resource_id, parameter, ordinal,
            cluster, low, high)
        SELECT p_tenant, v ->> 'type', v ->> 'id', r ->> 0, (r ->> 1)::int, (r ->> 2)::int,
            (r ->> 3)::float8, (r ->> 4)::float8
        FROM jsonb_array_elements(p_entries) AS v, jsonb_array_elements(v -> 'rows' -> 'number') AS r;
    END IF;
    IF jsonb_path_exists(p_entries, '$[*].rows.quantity') THEN
        INSERT INTO fhir_search_quantity (tenant_id, resource_type, resource_id, parameter, ordinal,
            cluster, low, high, system, code, unit, base_unit, base_low, base_high)
        SELECT p_tenant, v ->> 'type', v ->> 'id', r ->> 0, (r ->> 1)::int, (r ->> 2)::int,
            (r ->> 3)::float8, (r ->> 4)::float8, r ->> 5, r ->> 6, r ->> 7,
            r ->> 8, (r ->> 9)::float8, (r ->> 10)::float8
        FROM jsonb_array_elements(p_entries) AS v, jsonb_array_elements(v -> 'rows' -> 'quantity') AS r;
    END IF;
    IF jsonb_path_exists(p_entries, '$[*].rows.uri') THEN
        INSERT INTO fhir_search_uri (tenant_id, resource_type, resource_id, parameter, ordinal,
            cluster, value)
        SELECT p_tenant, v ->> 'type', v ->> 'id', r ->> 0, (r ->> 1)::int, (r ->> 2)::int,
            r ->> 3
        FROM jsonb_array_elements(p_entries) AS v, jsonb_array_elements(v -> 'rows' -> 'uri') AS r;
    END IF;
END;
$$;

-- The same for one resource.
CREATE OR REPLACE FUNCTION fhir_write_search_rows(p_tenant uuid, p_type text, p_id text,
        p_rows jsonb, p_replace boolean)
    RETURNS void LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
BEGIN
    PERFORM fhir_write_search_rows(p_tenant, jsonb_build_array(jsonb_build_object('type', p_type,
        'id', p_id, 'replace', p_replace, 'rows', p_rows)));
END;
$$;

CREATE OR REPLACE FUNCTION fhir_delete_search_rows(p_tenant uuid, p_type text, p_id text)
    RETURNS void LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
BEGIN
    DELETE FROM fhir_search_token
        WHERE tenant_id = p_tenant AND resource_type = p_type AND resource_id = p_id;
    DELETE FROM fhir_search_string
        WHERE tenant_id = p_tenant AND resource_type = p_type AND resource_id = p_id;
    DELETE FROM fhir_search_gram
        WHERE tenant_id = p_tenant AND resource_type = p_type AND resource_id = p_id;
    DELETE FROM fhir_search_reference
        WHERE tenant_id = p_tenant AND resource_type = p_type AND resource_id = p_id;
    DELETE FROM fhir_search_date
        WHERE tenant_id = p_tenant AND resource_type = p_type AND resource_id = p_id;
    DELETE FROM fhir_search_number
        WHERE tenant_id = p_tenant AND resource_type = p_type AND resource_id = p_id;
    DELETE FROM fhir_search_quantity
        WHERE tenant_id = p_tenant AND resource_type = p_type AND resource_id = p_id;
    DELETE FROM fhir_search_text
        WHERE tenant_id = p_tenant AND resource_type = p_type AND resource_id = p_id;
    DELETE FROM fhir_search_uri
        WHERE tenant_id = p_tenant AND resource_type = p_type AND resource_id = p_id;
END;
$$;

-- The patient whom a resource is about: itself, or the first that one of its own parameters of the
-- patient compartment names (never one that is only mentioned, security.md D7). By the row's id where
-- the Patient is here, else by an id that will be the row's.
CREATE OR REPLACE FUNCTION fhir_patient_of(p_tenant uuid, p_type text, p_id text, p_row_id uuid,
        p_references jsonb) RETURNS uuid
    LANGUAGE plpgsql STABLE SECURITY INVOKER AS $$
DECLARE
    about constant text[] := ARRAY['patient', 'subject', 'beneficiary', 'individual', 'subscriber',
        'policy-holder', 'actor', 'member'];
    target text := p_id;
    found uuid := p_row_id;
BEGIN
    IF p_type <> 'Patient' THEN
        SELECT r ->> 4 INTO target FROM jsonb_array_elements(p_references) AS r
            WHERE r ->> 3 = 'Patient' AND r ->> 4 <> '' AND r ->> 0 = ANY (about)
            ORDER BY array_position(about, r ->> 0), (r ->> 1)::int LIMIT 1;
        SELECT r.row_id INTO found FROM fhir_resources AS r
            WHERE r.tenant_id = p_tenant AND r.resource_type = 'Patient' AND r.resource_id = target;
    END IF;
    IF found IS NULL AND target ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN
        found := target::uuid;
    END IF;
    RETURN found;
END;
$$;

-- Begin a write in one round trip: the tenant and the actor are bound, the staleness triggers keep
-- quiet. Returns the database's clock in milliseconds, which stamps all versions, and what the
-- tenant asks of writers.
CREATE OR REPLACE FUNCTION fhir_begin_write(p_tenant uuid, p_actor text)
    RETURNS TABLE (moment timestamptz, requires_resolution boolean, requires_if_match boolean,
        validation_level text)
    LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
DECLARE
    ignored text;
BEGIN
    ignored := enter_tenant(p_tenant);
    ignored := set_config('app.lens', 'on', true);
    ignored := set_config('app.actor', p_actor, true);
    SELECT s.require_reference_resolution, s.require_if_match, s.validation_level
        INTO requires_resolution, requires_if_match, validation_level
        FROM tenant_settings AS s WHERE s.tenant_id = p_tenant;
    moment := date_trunc('milliseconds', clock_timestamp());
    RETURN NEXT;
END;
$$;

-- New versions of resources: current bytes, history, search rows, outbox and audit. p_entries is
-- [{"type", "id", "row_id", "version", "last_updated", "method", "rows", "audit"}, ...], no resource
-- twice; p_bodies has their bytes as texts in the same order, null where the version is a deletion.
CREATE OR REPLACE FUNCTION fhir_store(p_tenant uuid, p_entries jsonb, p_bodies json)
    RETURNS void LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
DECLARE
    about constant text[] := ARRAY['patient', 'subject', 'beneficiary', 'individual', 'subscriber',
        'policy-holder', 'actor', 'member'];
    bodies constant text[] := ARRAY(
        SELECT b FROM json_array_elements_text(p_bodies) WITH ORDINALITY AS listed(b, n) ORDER BY n);
    e jsonb;
    written bigint;
    patient uuid;
    ignored uuid;
BEGIN
    INSERT INTO fhir_resources AS known (tenant_id, resource_type, resource_id, row_id, patient_id,
        version, last_updated, body, stale, deleted)
    SELECT p_tenant, v ->> 'type', v ->> 'id', (v ->> 'row_id')::uuid,
        CASE WHEN v ->> 'type' = 'Patient' OR v -> 'rows' ? 'reference' THEN
            fhir_patient_of(p_tenant, v ->> 'type', v ->> 'id', (v ->> 'row_id')::uuid,
                v -> 'rows' -> 'reference') END,
        (v ->> 'version')::bigint, (v ->> 'last_updated')::timestamptz,
        coalesce(bodies[n], ''), false, bodies[n] IS NULL
    FROM jsonb_array_elements(p_entries) WITH ORDINALITY AS listed(v, n)
    ON CONFLICT (tenant_id, resource_type, resource_id) DO UPDATE
        SET row_id = excluded.row_id, version = excluded.version,
            -- Whose it was is still to be known of what was deleted.
            patient_id = CASE WHEN excluded.deleted THEN known.patient_id
                ELSE excluded.patient_id END,
            last_updated = excluded.last_updated, body = excluded.body, stale = false,
            deleted = excluded.deleted
        WHERE known.version = excluded.version - 1;
    GET DIAGNOSTICS written = ROW_COUNT;
    IF written <> jsonb_array_length(p_entries) THEN
        RAISE serialization_failure USING
            MESSAGE = 'another transaction has written one of these resources meanwhile';
    END IF;
    INSERT INTO fhir_history (tenant_id, resource_type, resource_id, version, last_updated,
        method, body)
    SELECT p_tenant, v ->> 'type', v ->> 'id', (v ->> 'version')::bigint,
        (v ->> 'last_updated')::timestamptz, v ->> 'method', bodies[n]
    FROM jsonb_array_elements(p_entries) WITH ORDINALITY AS listed(v, n);
    PERFORM fhir_write_search_rows(p_tenant, p_entries);
    INSERT INTO outbox (tenant_id, topic, payload)
    SELECT p_tenant, 'fhir', jsonb_build_object('resource_type', v -> 'type',
        'resource_id', v -> 'id', 'version', v -> 'version', 'method', v -> 'method')
    FROM jsonb_array_elements(p_entries) AS v;
    FOR e IN SELECT v FROM jsonb_array_elements(p_entries) AS v
            WHERE v ->> 'type' = 'Patient' AND v -> 'version' = '1'
                AND v -> 'row_id' <> v -> 'id' AND v -> 'row_id' <> 'null' LOOP
        -- What came before its patient could not know the id of the row.
        UPDATE fhir_resources AS r SET patient_id = (e ->> 'row_id')::uuid
        FROM fhir_search_reference AS s
        WHERE s.tenant_id = p_tenant AND s.target_id = e ->> 'id' AND s.target_type = 'Patient'
            AND r.tenant_id = p_tenant AND r.resource_type = s.resource_type
            AND r.resource_id = s.resource_id AND r.patient_id IS NULL
            AND s.parameter = ANY (about);
    END LOOP;
    -- After it all, so that the patient is known.
    FOR e IN SELECT v FROM jsonb_array_elements(p_entries) AS v WHERE v ? 'audit' LOOP
        SELECT r.patient_id INTO patient FROM fhir_resources AS r
            WHERE r.tenant_id = p_tenant AND r.resource_type = e ->> 'type'
                AND r.resource_id = e ->> 'id';
        ignored := write_audit_event(p_tenant, e -> 'audit', patient);
    END LOOP;
END;
$$;

-- Which codes are common depends on the parameter: without these statistics the planner takes
-- gender=male for rare, because status and gender rows share a table.
CREATE STATISTICS IF NOT EXISTS fhir_search_token_values (mcv, ndistinct)
    ON tenant_id, resource_type, parameter, code FROM fhir_search_token;
ALTER STATISTICS fhir_search_token_values SET STATISTICS 1000;
CREATE STATISTICS IF NOT EXISTS fhir_search_reference_values (mcv, ndistinct)
    ON tenant_id, resource_type, parameter, target_id FROM fhir_search_reference;
CREATE STATISTICS IF NOT EXISTS fhir_search_string_parameters (mcv, ndistinct)
    ON tenant_id, resource_type, parameter FROM fhir_search_string;
CREATE STATISTICS IF NOT EXISTS fhir_search_date_parameters (mcv, ndistinct)
    ON tenant_id, resource_type, parameter FROM fhir_search_date;
CREATE STATISTICS IF NOT EXISTS fhir_search_quantity_parameters (mcv, ndistinct)
    ON tenant_id, resource_type, parameter FROM fhir_search_quantity;

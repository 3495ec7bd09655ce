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

-- The search rows of many resources, named by p_types and p_ids: p_rows is {"token": [[number of the
-- resource, parameter, ordinal, cluster, ...], ...], ...}. p_replaced says which of them have rows
-- already, p_epochs by which search parameters the rows were extracted.
CREATE OR REPLACE FUNCTION fhir_write_search_rows(p_tenant uuid, p_types text[], p_ids text[],
        p_replaced boolean[], p_epochs bigint[], p_rows jsonb)
    RETURNS void LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
DECLARE
    ignored text;
BEGIN
    -- An assignment is evaluated as it stands; PERFORM would run a statement of its own.
    ignored := fhir_check_search_epoch(p_tenant, p_epochs);
    -- One resource at a time, so that each DELETE is a look-up by its key.
    FOR number IN 1..cardinality(p_ids) LOOP
        IF p_replaced[number] THEN
            ignored := fhir_delete_search_rows(p_tenant, p_types[number], p_ids[number]);
        END IF;
    END LOOP;
    IF p_rows ? 'token' THEN
        INSERT INTO fhir_search_token (tenant_id, resource_type, resource_id, parameter, ordinal,
            cluster, system, code)
        SELECT p_tenant, p_types[(r ->> 0)::int], p_ids[(r ->> 0)::int], r ->> 1, (r ->> 2)::int,
            (r ->> 3)::int, r ->> 4, r ->> 5
        FROM jsonb_array_elements(p_rows -> 'token') AS r;
    END IF;
    IF p_rows ? 'string' THEN
        INSERT INTO fhir_search_string (tenant_id, resource_type, resource_id, parameter, ordinal,
            cluster, value, value_exact)
        SELECT p_tenant, p_types[(r ->> 0)::int], p_ids[(r ->> 0)::int], r ->> 1, (r ->> 2)::int,
            (r ->> 3)::int, r ->> 4, r ->> 5
        FROM jsonb_array_elements(p_rows -> 'string') AS r;
    END IF;
    IF p_rows ? 'gram' THEN
        INSERT INTO fhir_search_gram (tenant_id, resource_type, gram, resource_id)
        SELECT p_tenant, p_types[(r ->> 0)::int], r ->> 1, p_ids[(r ->> 0)::int]
        FROM jsonb_array_elements(p_rows -> 'gram') AS r
        -- Another parameter may have brought the same three characters.
        ON CONFLICT DO NOTHING;
    END IF;
    IF p_rows ? 'text' THEN
        INSERT INTO fhir_search_text (tenant_id, resource_type, resource_id, narrative, content)
        SELECT p_tenant, p_types[(r ->> 0)::int], p_ids[(r ->> 0)::int], r ->> 1, r ->> 2
        FROM jsonb_array_elements(p_rows -> 'text') AS r;
    END IF;
    IF p_rows ? 'reference' THEN
        INSERT INTO fhir_search_reference (tenant_id, resource_type, resource_id, parameter, ordinal,
            cluster, target_type, target_id, target_url, target_version,
            identifier_system, identifier_value)
        SELECT p_tenant, p_types[(r ->> 0)::int], p_ids[(r ->> 0)::int], r ->> 1, (r ->> 2)::int,
            (r ->> 3)::int, r ->> 4, r ->> 5, r ->> 6, r ->> 7, r ->> 8, r ->> 9
        FROM jsonb_array_elements(p_rows -> 'reference') AS r;
    END IF;
    IF p_rows ? 'date' THEN
        INSERT INTO fhir_search_date (tenant_id, resource_type, resource_id, parameter, ordinal,
            cluster, low, high)
        SELECT p_tenant, p_types[(r ->> 0)::int], p_ids[(r ->> 0)::int], r ->> 1, (r ->> 2)::int,
            (r ->> 3)::int, (r ->> 4)::timestamptz, (r ->> 5)::timestamptz
        FROM jsonb_array_elements(p_rows -> 'date') AS r;
    END IF;
    IF p_rows ? 'number' THEN
        INSERT INTO fhir_search_number (tenant_id, resource_type, resource_id, parameter, ordinal,
            cluster, low, high)
        SELECT p_tenant, p_types[(r ->> 0)::int], p_ids[(r ->> 0)::int], r ->> 1, (r ->> 2)::int,
            (r ->> 3)::int, (r ->> 4)::float8, (r ->> 5)::float8
        FROM jsonb_array_elements(p_rows -> 'number') AS r;
    END IF;
    IF p_rows ? 'quantity' THEN
        INSERT INTO fhir_search_quantity (tenant_id, resource_type, resource_id, parameter, ordinal,
            cluster, low, high, system, code, unit, base_unit, base_low, base_high)
        SELECT p_tenant, p_types[(r ->> 0)::int], p_ids[(r ->> 0)::int], r ->> 1, (r ->> 2)::int,
            (r ->> 3)::int, (r ->> 4)::float8, (r ->> 5)::float8, r ->> 6, r ->> 7, r ->> 8,
            r ->> 9, (r ->> 10)::float8, (r ->> 11)::float8
        FROM jsonb_array_elements(p_rows -> 'quantity') AS r;
    END IF;
    IF p_rows ? 'uri' THEN
        INSERT INTO fhir_search_uri (tenant_id, resource_type, resource_id, parameter, ordinal,
            cluster, value)
        SELECT p_tenant, p_types[(r ->> 0)::int], p_ids[(r ->> 0)::int], r ->> 1, (r ->> 2)::int,
            (r ->> 3)::int, r ->> 4
        FROM jsonb_array_elements(p_rows -> 'uri') AS r;
    END IF;
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

-- Begin a write in one round trip: the tenant and the actor are bound, the staleness triggers keep
-- quiet. Returns the database's clock in milliseconds, which stamps all versions, what the tenant
-- asks of writers, and whether it has added fields to its records.
CREATE OR REPLACE FUNCTION fhir_begin_write(p_tenant uuid, p_actor text)
    RETURNS TABLE (moment timestamptz, requires_resolution boolean, requires_if_match boolean,
        validation_level text, has_custom_fields boolean)
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
    has_custom_fields := EXISTS (
        SELECT FROM custom_field_definitions AS d WHERE d.tenant_id = p_tenant);
    moment := date_trunc('milliseconds', clock_timestamp());
    RETURN NEXT;
END;
$$;

-- New versions of resources: current bytes, history, search rows, outbox and audit. p_entries is
-- [{"number": from 1, "type", "id", "row_id", "version", "last_updated", "method", "body": null where
-- it is a deletion, "epoch", "audit"}, ...], no resource twice; p_rows has the search rows of them all
-- (fhir_write_search_rows). One statement for all of a kind: each costs more than a row of it.
CREATE OR REPLACE FUNCTION fhir_store(p_tenant uuid, p_entries json, p_rows jsonb)
    RETURNS void LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
DECLARE
    -- Whom a resource is about its own parameters of the patient compartment say, the first of them
    -- first: never one that is only mentioned (security.md D7).
    about constant text[] := ARRAY['patient', 'subject', 'beneficiary', 'individual', 'subscriber',
        'policy-holder', 'actor', 'member'];
    is_uuid constant text := '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$';
    types text[];
    ids text[];
    row_ids uuid[];
    replaced boolean[];
    epochs bigint[];
    audits jsonb[];
    patients uuid[];
    ignored text;
    has_brought_patient boolean := false;
BEGIN
    WITH given AS MATERIALIZED (
        SELECT r.* FROM json_to_recordset(p_entries) AS r(number int, type text, id text,
            row_id uuid, version bigint, last_updated timestamptz, method text, body text,
            epoch bigint, audit jsonb)
    ), named AS (
        SELECT DISTINCT ON ((r ->> 0)::int) (r ->> 0)::int AS number, r ->> 5 AS patient
        FROM jsonb_array_elements(p_rows -> 'reference') AS r
        WHERE r ->> 4 = 'Patient' AND r ->> 5 <> '' AND r ->> 1 = ANY (about)
        ORDER BY (r ->> 0)::int, array_position(about, r ->> 1), (r ->> 2)::int
    ), stored AS (
        INSERT INTO fhir_resources AS known (tenant_id, resource_type, resource_id, row_id,
            patient_id, version, last_updated, body, stale, deleted)
        SELECT p_tenant, g.type, g.id, g.row_id,
            -- By the row's id where the Patient is here, else by an id that will be the row's.
            CASE WHEN g.type = 'Patient' THEN
                coalesce(g.row_id, CASE WHEN g.id ~ is_uuid THEN g.id::uuid END)
            WHEN n.patient IS NOT NULL THEN
                coalesce((SELECT r.row_id FROM fhir_resources AS r WHERE r.tenant_id = p_tenant
                    AND r.resource_type = 'Patient' AND r.resource_id = n.patient),
                    CASE WHEN n.patient ~ is_uuid THEN n.patient::uuid END)
            END,
            g.version, g.last_updated, coalesce(g.body, ''), false, g.body IS NULL
        FROM given AS g LEFT JOIN named AS n ON n.number = g.number
        ON CONFLICT (tenant_id, resource_type, resource_id) DO UPDATE
            SET row_id = excluded.row_id, version = excluded.version,
                -- Whose it was is still to be known of what was deleted.
                patient_id = CASE WHEN excluded.deleted THEN known.patient_id
                    ELSE excluded.patient_id END,
                last_updated = excluded.last_updated, body = excluded.body, stale = false,
                deleted = excluded.deleted
            WHERE known.version = excluded.version - 1
        RETURNING known.resource_type, known.resource_id, known.patient_id
    ), history AS (
        INSERT INTO fhir_history (tenant_id, resource_type, resource_id, version, last_updated,
            method, body)
        SELECT p_tenant, g.type, g.id, g.version, g.last_updated, g.method, g.body FROM given AS g
    ), announced AS (
        INSERT INTO outbox (tenant_id, topic, payload)
        SELECT p_tenant, 'fhir', jsonb_build_object('resource_type', g.type, 'resource_id', g.id,
            'version', g.version, 'method', g.method)
        FROM given AS g
    )
    SELECT array_agg(g.type ORDER BY g.number), array_agg(g.id ORDER BY g.number),
        array_agg(CASE WHEN g.type = 'Patient' AND g.version = 1 THEN g.row_id END
            ORDER BY g.number),
        array_agg(g.version > 1 ORDER BY g.number), array_agg(g.audit ORDER BY g.number),
        array_agg(s.patient_id ORDER BY g.number),
        array_agg(DISTINCT coalesce(g.epoch, 0)) FILTER (WHERE g.method <> 'DELETE')
    INTO types, ids, row_ids, replaced, audits, patients, epochs
    FROM given AS g JOIN stored AS s ON s.resource_type = g.type AND s.resource_id = g.id;
    IF coalesce(cardinality(ids), 0) <> json_array_length(p_entries) THEN
        RAISE serialization_failure USING
            MESSAGE = 'another transaction has written one of these resources meanwhile';
    END IF;
    ignored := fhir_write_search_rows(p_tenant, types, ids, replaced, epochs, p_rows);
    FOR number IN 1..cardinality(ids) LOOP
        IF row_ids[number]::text <> ids[number] THEN
            -- What came before its patient could not know the id of the row.
            UPDATE fhir_resources AS r SET patient_id = row_ids[number]
            FROM fhir_search_reference AS s
            WHERE s.tenant_id = p_tenant AND s.target_id = ids[number]
                AND s.target_type = 'Patient' AND r.tenant_id = p_tenant
                AND r.resource_type = s.resource_type AND r.resource_id = s.resource_id
                AND r.patient_id IS NULL AND s.parameter = ANY (about);
            has_brought_patient := true;
        END IF;
    END LOOP;
    IF has_brought_patient THEN
        patients := ARRAY(
            SELECT (SELECT r.patient_id FROM fhir_resources AS r WHERE r.tenant_id = p_tenant
                AND r.resource_type = w.type AND r.resource_id = w.id)
            FROM unnest(types, ids) WITH ORDINALITY AS w(type, id, number) ORDER BY w.number);
    END IF;
    -- After it all, so that the patient is known.
    FOR number IN 1..cardinality(ids) LOOP
        IF audits[number] IS NOT NULL THEN
            ignored := write_audit_event(p_tenant, audits[number], patients[number]);
        END IF;
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

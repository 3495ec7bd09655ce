-- The log: its only ways in, and the triggers that keep everybody from changing it. Functions run
-- with the caller's rights: row-level security holds inside them.

-- One event, from the values that storage.audit.system_audit makes, and where it concerns PHI of a
-- patient who is known, one row of phi_access_logs. A study knows its patient. PL/pgSQL, because a
-- function in SQL would be planned anew in every call before PostgreSQL 18.
CREATE OR REPLACE FUNCTION write_audit_event(p_tenant uuid, p_audit jsonb,
        p_patient uuid DEFAULT NULL) RETURNS uuid
    LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
DECLARE
    event uuid := gen_random_uuid();
BEGIN
    IF p_patient IS NULL THEN
        p_patient := p_audit ->> 'patient_id';
        IF p_patient IS NULL AND p_audit ->> 'phi_action' IS NOT NULL
                AND p_audit ->> 'resource_type' = 'ImagingStudy'
                AND p_audit ->> 'resource_id' ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN
            SELECT s.patient_id INTO p_patient FROM imaging_studies AS s
                WHERE s.tenant_id = p_tenant AND s.id = (p_audit ->> 'resource_id')::uuid;
        END IF;
    END IF;
    INSERT INTO audit_events (tenant_id, id, user_id, api_client_id, actor_type, event_type,
        resource_type, resource_id, patient_id, outcome, request_id, ip_address, user_agent,
        metadata)
    VALUES (p_tenant, event, (p_audit ->> 'user_id')::uuid, (p_audit ->> 'api_client_id')::uuid,
        p_audit ->> 'actor_type', p_audit ->> 'event_type', p_audit ->> 'resource_type',
        p_audit ->> 'resource_id', p_patient, p_audit ->> 'outcome', p_audit ->> 'request_id',
        p_audit ->> 'ip_address', p_audit ->> 'user_agent', p_audit -> 'metadata');
    -- What was refused showed nobody's data.
    IF p_patient IS NOT NULL AND p_audit ->> 'phi_action' IS NOT NULL
            AND p_audit ->> 'outcome' = 'SUCCESS' THEN
        INSERT INTO phi_access_logs (tenant_id, audit_event_id, patient_id, action,
            purpose_of_use, is_break_glass, break_glass_reason)
        VALUES (p_tenant, event, p_patient, p_audit ->> 'phi_action',
            p_audit ->> 'purpose_of_use', coalesce((p_audit ->> 'is_break_glass')::boolean, false),
            p_audit ->> 'break_glass_reason');
    END IF;
    RETURN event;
END;
$$;

-- The patients whose data an event showed besides, as a search does.
CREATE OR REPLACE FUNCTION write_phi_accesses(p_tenant uuid, p_event uuid, p_audit jsonb,
        p_patients uuid[]) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
BEGIN
    INSERT INTO phi_access_logs (tenant_id, audit_event_id, patient_id, action, purpose_of_use,
        is_break_glass, break_glass_reason)
    SELECT p_tenant, p_event, patient, p_audit ->> 'phi_action', p_audit ->> 'purpose_of_use',
        coalesce((p_audit ->> 'is_break_glass')::boolean, false), p_audit ->> 'break_glass_reason'
    FROM unnest(p_patients) AS patient;
END;
$$;

-- Many events at once: [{...}, ...] as write_audit_event takes them.
CREATE OR REPLACE FUNCTION write_audit_events(p_tenant uuid, p_audits json) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
BEGIN
    WITH given AS MATERIALIZED (
        -- A subquery, not a join, which may read all studies of the tenant for one event.
        SELECT gen_random_uuid() AS event, r.*, CASE
            WHEN r.patient_id IS NOT NULL THEN r.patient_id
            WHEN r.phi_action IS NOT NULL AND r.resource_type = 'ImagingStudy' THEN
                (SELECT s.patient_id FROM imaging_studies AS s
                    WHERE s.tenant_id = p_tenant AND s.study_uid = r.resource_id)
            END AS patient
        FROM json_to_recordset(p_audits) AS r(user_id uuid, api_client_id uuid, actor_type text,
            event_type text, resource_type text, resource_id text, patient_id uuid, outcome text,
            request_id text, ip_address text, user_agent text, metadata text, phi_action text,
            purpose_of_use text, is_break_glass boolean, break_glass_reason text)
    ), events AS (
        INSERT INTO audit_events (tenant_id, id, user_id, api_client_id, actor_type, event_type,
            resource_type, resource_id, patient_id, outcome, request_id, ip_address, user_agent,
            metadata)
        SELECT p_tenant, event, user_id, api_client_id, actor_type, event_type, resource_type,
            resource_id, patient, outcome, request_id, ip_address, user_agent, metadata::jsonb
        FROM given
    )
    INSERT INTO phi_access_logs (tenant_id, audit_event_id, patient_id, action, purpose_of_use,
        is_break_glass, break_glass_reason)
    SELECT p_tenant, event, patient, phi_action, purpose_of_use, coalesce(is_break_glass, false),
        break_glass_reason
    FROM given
    WHERE phi_action IS NOT NULL AND patient IS NOT NULL AND outcome = 'SUCCESS';
END;
$$;

-- -- what may leave the log -----------------------------------------------------------------------

-- Nobody changes a row of the log, its owner neither. Rows go only when a seal says that they go,
-- and such a seal is accepted only for rows past their retention and under no hold; or when the
-- tenant lives elsewhere, and so does the log (is_in_transit).
CREATE OR REPLACE FUNCTION refuse_audit_change() RETURNS trigger
    LANGUAGE plpgsql SECURITY INVOKER AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF is_in_transit(OLD.tenant_id, TG_TABLE_SCHEMA) THEN
            RETURN NEW;
        END IF;
    ELSIF TG_OP = 'DELETE' THEN
        IF is_in_transit(OLD.tenant_id, TG_TABLE_SCHEMA) THEN
            RETURN OLD;
        END IF;
    END IF;
    RAISE insufficient_privilege USING
        MESSAGE = format('%s is append-only: %s is refused', TG_TABLE_NAME, TG_OP),
        HINT = 'Rows past their retention are removed by: interop audit prune';
END;
$$;

CREATE OR REPLACE FUNCTION refuse_unpruned_deletion() RETURNS trigger
    LANGUAGE plpgsql SECURITY INVOKER AS $$
BEGIN
    IF is_in_transit(OLD.tenant_id, TG_TABLE_SCHEMA) THEN
        RETURN OLD;
    ELSIF TG_TABLE_NAME = 'phi_access_logs' THEN
        -- Its event goes first, and says then whether it may go.
        IF NOT EXISTS (SELECT FROM audit_events AS e
                WHERE e.tenant_id = OLD.tenant_id AND e.id = OLD.audit_event_id) THEN
            RETURN OLD;
        END IF;
    ELSIF EXISTS (SELECT FROM audit_seals AS s
            WHERE s.tenant_id = OLD.tenant_id AND s.kind = 'PRUNED'
            AND OLD.transaction_id >= s.first_transaction::text::xid8
            AND OLD.transaction_id < s.next_transaction::text::xid8) THEN
        RETURN OLD;
    END IF;
    RAISE insufficient_privilege USING
        MESSAGE = format('%s is append-only: DELETE is refused', TG_TABLE_NAME),
        HINT = 'Rows past their retention are removed by: interop audit prune';
END;
$$;

-- How long the log of a tenant is kept: its own policy for LOGS, else six years (45 CFR
-- 164.316(b)(2)(i)). NULL: for ever.
CREATE OR REPLACE FUNCTION audit_retention(p_tenant uuid) RETURNS interval
    LANGUAGE sql STABLE SECURITY INVOKER AS $$
    SELECT CASE
        WHEN p.id IS NULL THEN interval '6 years'
        WHEN p.archival_strategy = 'DELETE' THEN make_interval(years => greatest(p.min_years,
            coalesce(p.max_years, p.min_years)))
    END
    FROM (SELECT p_tenant AS tenant_id) AS wanted
    LEFT JOIN data_retention_policies AS p
        ON p.tenant_id = wanted.tenant_id AND p.data_class = 'LOGS'
$$;

-- The hold that keeps the rows between two transactions; NULL where none does. A hold on the tenant
-- or on the log itself keeps everything, any other what speaks of its patient or record.
CREATE OR REPLACE FUNCTION audit_hold(p_tenant uuid, p_first xid8, p_next xid8) RETURNS uuid
    LANGUAGE sql STABLE SECURITY INVOKER AS $$
    SELECT h.id FROM legal_holds AS h
    WHERE h.tenant_id = p_tenant AND h.released_at IS NULL AND (
        upper(h.entity_type) IN ('TENANT', 'AUDIT', 'LOGS')
        OR EXISTS (SELECT FROM phi_access_logs AS l
            JOIN audit_events AS e ON e.tenant_id = p_tenant AND e.id = l.audit_event_id
            WHERE l.tenant_id = p_tenant AND l.patient_id = h.entity_id
            AND e.transaction_id >= p_first AND e.transaction_id < p_next)
        OR EXISTS (SELECT FROM audit_events AS e WHERE e.tenant_id = p_tenant
            AND e.transaction_id >= p_first AND e.transaction_id < p_next
            AND (e.resource_id = h.entity_id::text OR e.patient_id = h.entity_id
                OR e.user_id = h.entity_id)))
    LIMIT 1
$$;

CREATE OR REPLACE FUNCTION check_audit_seal() RETURNS trigger
    LANGUAGE plpgsql SECURITY INVOKER AS $$
DECLARE
    kept interval := audit_retention(NEW.tenant_id);
    held uuid;
BEGIN
    IF NEW.kind <> 'PRUNED' OR is_in_transit(NEW.tenant_id, TG_TABLE_SCHEMA) THEN
        RETURN NEW;
    END IF;
    IF kept IS NULL OR NEW.newest_at > now() - kept OR EXISTS (
            SELECT FROM audit_events AS e WHERE e.tenant_id = NEW.tenant_id
                AND e.transaction_id >= NEW.first_transaction::text::xid8
                AND e.transaction_id < NEW.next_transaction::text::xid8
                AND e.timestamp > now() - kept) THEN
        RAISE insufficient_privilege USING
            MESSAGE = format('the log is kept for %s', coalesce(kept::text, 'ever'));
    END IF;
    held := audit_hold(NEW.tenant_id, NEW.first_transaction::text::xid8,
        NEW.next_transaction::text::xid8);
    IF held IS NOT NULL THEN
        RAISE insufficient_privilege USING MESSAGE = format('legal hold %s keeps these rows', held);
    END IF;
    RETURN NEW;
END;
$$;

-- Of a seal only the entries go, and only those of rows that went.
CREATE OR REPLACE FUNCTION check_audit_seal_change() RETURNS trigger
    LANGUAGE plpgsql SECURITY INVOKER AS $$
DECLARE
    wanted audit_seals := OLD;
BEGIN
    IF is_in_transit(OLD.tenant_id, TG_TABLE_SCHEMA) THEN
        RETURN NEW;
    END IF;
    wanted.entries := NULL;
    wanted.updated_at := NEW.updated_at;
    wanted.updated_by := NEW.updated_by;
    IF NEW IS DISTINCT FROM wanted OR NOT EXISTS (
            SELECT FROM audit_seals AS s WHERE s.tenant_id = OLD.tenant_id AND s.kind = 'PRUNED'
                AND OLD.sequence BETWEEN s.first_sequence AND s.last_sequence) THEN
        RAISE insufficient_privilege USING MESSAGE = 'audit_seals is append-only: UPDATE is refused';
    END IF;
    RETURN NEW;
END;
$$;

CREATE TRIGGER keep_rows BEFORE UPDATE ON audit_events
    FOR EACH ROW EXECUTE FUNCTION refuse_audit_change();
CREATE TRIGGER keep_table BEFORE TRUNCATE ON audit_events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_audit_change();
CREATE TRIGGER keep_unpruned BEFORE DELETE ON audit_events
    FOR EACH ROW EXECUTE FUNCTION refuse_unpruned_deletion();
CREATE TRIGGER keep_rows BEFORE UPDATE ON phi_access_logs
    FOR EACH ROW EXECUTE FUNCTION refuse_audit_change();
CREATE TRIGGER keep_table BEFORE TRUNCATE ON phi_access_logs
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_audit_change();
CREATE TRIGGER keep_unpruned BEFORE DELETE ON phi_access_logs
    FOR EACH ROW EXECUTE FUNCTION refuse_unpruned_deletion();
CREATE TRIGGER keep_rows BEFORE DELETE ON audit_seals
    FOR EACH ROW EXECUTE FUNCTION refuse_audit_change();
CREATE TRIGGER keep_table BEFORE TRUNCATE ON audit_seals
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_audit_change();
CREATE TRIGGER check_pruning BEFORE INSERT ON audit_seals
    FOR EACH ROW EXECUTE FUNCTION check_audit_seal();
CREATE TRIGGER zz_keep_seal BEFORE UPDATE ON audit_seals
    FOR EACH ROW EXECUTE FUNCTION check_audit_seal_change();

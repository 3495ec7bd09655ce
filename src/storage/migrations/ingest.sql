-- The writes of one ingest transaction (interop/dicom/batch.py) in one call, because a round trip
-- costs more than a row. Runs with the caller's rights: row-level security holds inside it, and
-- every statement carries the tenant besides.

-- Bind the transaction to a tenant, and lock studies as the caller last saw them. False, and nothing
-- is locked for long, when anything has changed since: a study, its pending completeness check, the
-- tenant's settings, or when one of the objects is stored already. A revision is an xmin: the
-- transaction that wrote the row. Order of locks as in interop/dicom/imaging_rows.py.
CREATE OR REPLACE FUNCTION ingest_resume(p_tenant uuid, p_studies uuid[], p_revisions text[],
        p_scheduled uuid[], p_settings text, p_objects text[])
    RETURNS boolean LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
DECLARE
    found bigint;
BEGIN
    PERFORM set_config('app.tenant', p_tenant::text, true), set_config('app.lens', 'on', true);
    PERFORM FROM imaging_studies AS s JOIN unnest(p_studies, p_revisions) AS seen(id, revision)
            ON s.id = seen.id
        WHERE s.tenant_id = p_tenant AND s.xmin = seen.revision::xid
        ORDER BY s.study_uid FOR UPDATE OF s;
    GET DIAGNOSTICS found = ROW_COUNT;
    IF found <> cardinality(p_studies) THEN
        RETURN false;
    END IF;
    PERFORM FROM study_activity AS a
        WHERE a.tenant_id = p_tenant AND a.study_id = ANY (p_scheduled) AND a.check_scheduled
        ORDER BY a.study_id FOR UPDATE;
    GET DIAGNOSTICS found = ROW_COUNT;
    RETURN found = cardinality(p_scheduled)
        AND p_settings = coalesce(
            (SELECT t.xmin::text FROM tenant_settings AS t WHERE t.tenant_id = p_tenant), '')
        AND NOT EXISTS (SELECT FROM imaging_objects AS o
            WHERE o.tenant_id = p_tenant AND o.sop_instance_uid = ANY (p_objects));
END;
$$;

-- Objects, and what changes with them in known series, studies and activity. The series' count lies
-- in its ready JSON as well; the pattern cannot occur inside a JSON string, where a quotation mark
-- would be escaped.
CREATE OR REPLACE FUNCTION ingest_store(p_tenant uuid, p_series json, p_studies json,
        p_activity json, p_objects json)
    RETURNS void LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
BEGIN
    UPDATE imaging_series AS e
        SET number_of_instances = r.number_of_instances, metadata_gzip = NULL,
            dicom_json = regexp_replace(e.dicom_json,
                '("00201209":\{"vr":"IS","Value":\[)[0-9]+', '\1' || r.number_of_instances::text)
        FROM json_to_recordset(p_series) AS r(id uuid, number_of_instances int)
        WHERE e.tenant_id = p_tenant AND e.id = r.id;
    UPDATE imaging_studies AS s
        SET modality = r.modality, modalities_in_study = r.modalities_in_study,
            sop_classes_in_study = r.sop_classes_in_study,
            number_of_series = r.number_of_series, number_of_instances = r.number_of_instances,
            patient_name = r.patient_name, patient_name_key = r.patient_name_key,
            patient_birth_date = r.patient_birth_date, patient_sex = r.patient_sex,
            demographics_conflict = r.demographics_conflict, last_received_at = now(),
            dicom_json = r.dicom_json
        FROM json_to_recordset(p_studies) AS r(id uuid, modality text, modalities_in_study text[],
            sop_classes_in_study text[], number_of_series int, number_of_instances int,
            patient_name text, patient_name_key text, patient_birth_date text, patient_sex text,
            demographics_conflict jsonb, dicom_json text)
        WHERE s.tenant_id = p_tenant AND s.id = r.id;
    INSERT INTO study_activity AS known (tenant_id, study_id, last_received_at, instance_count,
        check_scheduled)
        SELECT p_tenant, r.study_id, now(), r.added, true
        FROM json_to_recordset(p_activity) AS r(study_id uuid, added int)
        ON CONFLICT (tenant_id, study_id) DO UPDATE
            SET last_received_at = now(), check_scheduled = true,
                instance_count = known.instance_count + excluded.instance_count;
    INSERT INTO imaging_objects (tenant_id, id, study_id, series_id, sop_instance_uid,
        sop_class_uid, transfer_syntax_uid, object_type, storage_uri, hash, dataset_hash,
        byte_size, dataset_offset, width, height, depth_slices, is_original, instance_number,
        number_of_frames, pixel_data_offset, frame_length, frame_table, dicom_json,
        source_ae_title, document_title, content_date, content_time)
        SELECT p_tenant, r.id, r.study_id, r.series_id, r.sop_instance_uid, r.sop_class_uid,
            r.transfer_syntax_uid, 'DICOM', r.storage_uri, r.hash, r.dataset_hash, r.byte_size,
            r.dataset_offset, r.width, r.height, r.depth_slices, r.is_original, r.instance_number,
            r.number_of_frames, r.pixel_data_offset, r.frame_length,
            decode(r.frame_table, 'base64'), r.dicom_json, r.source_ae_title, r.document_title,
            r.content_date, r.content_time
        FROM json_to_recordset(p_objects) AS r(id uuid, study_id uuid, series_id uuid,
            sop_instance_uid text, sop_class_uid text, transfer_syntax_uid text,
            storage_uri text, hash text, dataset_hash text, byte_size bigint,
            dataset_offset bigint, width int, height int, depth_slices int, is_original bool,
            instance_number int, number_of_frames int, pixel_data_offset bigint,
            frame_length bigint, frame_table text, dicom_json text, source_ae_title text,
            document_title text, content_date text, content_time text);
END;
$$;

-- The transaction log, the audit trail, the outbox, and the mark that makes FHIR render anew what
-- changed: as the triggers of triggers.py do per statement, but once per transaction.
CREATE OR REPLACE FUNCTION ingest_log(p_tenant uuid, p_transactions json, p_audits json,
        p_outbox json, p_stale json)
    RETURNS void LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
DECLARE
    marked bigint;
BEGIN
    INSERT INTO dicom_transactions (tenant_id, direction, operation, calling_ae_title,
        called_ae_title, remote_address, sop_class_uid, sop_instance_uid, study_instance_uid,
        transfer_syntax_uid, status_code, status, message, byte_size, started_at, completed_at)
        SELECT p_tenant, 'INBOUND', r.operation, r.calling_ae_title, r.called_ae_title,
            r.remote_address, r.sop_class_uid, r.sop_instance_uid, r.study_instance_uid,
            r.transfer_syntax_uid, r.status_code, r.status, r.message, r.byte_size, r.started_at,
            now()
        FROM json_to_recordset(p_transactions) AS r(operation text, calling_ae_title text,
            called_ae_title text, remote_address text, sop_class_uid text, sop_instance_uid text,
            study_instance_uid text, transfer_syntax_uid text, status_code int, status text,
            message text, byte_size bigint, started_at timestamptz);
    INSERT INTO audit_events (tenant_id, user_id, api_client_id, actor_type, event_type,
        resource_type, resource_id, outcome, request_id, ip_address, user_agent, metadata)
        SELECT p_tenant, r.user_id, r.api_client_id, r.actor_type, r.event_type, r.resource_type,
            r.resource_id, r.outcome, r.request_id, r.ip_address, r.user_agent, r.metadata::jsonb
        FROM json_to_recordset(p_audits) AS r(user_id uuid, api_client_id uuid, actor_type text,
            event_type text, resource_type text, resource_id text, outcome text, request_id text,
            ip_address text, user_agent text, metadata text);
    INSERT INTO outbox (tenant_id, topic, payload)
        SELECT p_tenant, r.topic, r.payload
        FROM json_to_recordset(p_outbox) AS r(topic text, payload jsonb);
    INSERT INTO fhir_resources AS known (tenant_id, resource_type, resource_id, row_id, version,
        last_updated, body, stale)
        SELECT p_tenant, r.resource_type, r.row_id::text, r.row_id, 0, now(), '', true
        FROM json_to_recordset(p_stale) AS r(resource_type text, row_id uuid)
        ORDER BY r.resource_type, r.row_id
        ON CONFLICT (tenant_id, resource_type, row_id) DO UPDATE SET stale = true
            WHERE NOT known.stale;
    GET DIAGNOSTICS marked = ROW_COUNT;
    -- What is stale already is known to whoever renders. A notification takes a lock that lets
    -- only one transaction of the whole cluster commit at a time.
    IF marked > 0 THEN
        PERFORM pg_notify('fhir_stale', p_tenant::text);
    END IF;
END;
$$;

-- All of it for a batch whose studies and series are known: one round trip. NULL when they have
-- changed, and then nothing was written; else the revision that the studies have from now on.
CREATE OR REPLACE FUNCTION ingest_batch(p_tenant uuid, p_seen_studies uuid[],
        p_seen_revisions text[], p_seen_scheduled uuid[], p_seen_settings text, p_uids text[],
        p_series json, p_studies json, p_activity json, p_objects json, p_transactions json,
        p_audits json, p_outbox json, p_stale json)
    RETURNS text LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
BEGIN
    IF NOT ingest_resume(p_tenant, p_seen_studies, p_seen_revisions, p_seen_scheduled,
            p_seen_settings, p_uids) THEN
        RETURN NULL;
    END IF;
    PERFORM ingest_store(p_tenant, p_series, p_studies, p_activity, p_objects);
    PERFORM ingest_log(p_tenant, p_transactions, p_audits, p_outbox, p_stale);
    RETURN pg_current_xact_id()::xid::text;
END;
$$;

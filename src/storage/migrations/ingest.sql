-- The statements of one ingest transaction (interop/dicom/batch.py) as functions, because a round
-- trip and a statement cost more than a row. They run with the caller's rights: row-level security
-- holds inside them, and every statement carries the tenant besides.
--
-- Order of locks, the same in every process: advisory locks on the names of studies and patients
-- (sorted), studies (sorted by UID), then everything below them. So two processes that receive one
-- study at the same time wait for each other and never deadlock.

-- Bind the transaction to a tenant. It marks what it changes itself, once, instead of the triggers.
CREATE OR REPLACE FUNCTION ingest_begin(p_tenant uuid) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
BEGIN
    PERFORM enter_tenant(p_tenant), set_config('app.lens', 'on', true);
    -- It will write: whoever waits for those who may not know of a new query tag must see it from
    -- before it reads which there are (interop/dicom/query_tags.py).
    PERFORM pg_current_xact_id();
END;
$$;

-- Lock studies and the names of patients, and return what a batch must know of them. The locks on
-- names come first, so that what is read after them includes what another process was just creating
-- under the same Study Instance UID or PatientID.
CREATE OR REPLACE FUNCTION ingest_read(p_tenant uuid, p_names text[], p_studies text[],
        p_series text[], p_objects text[], p_patients text[])
    RETURNS json LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
DECLARE
    studies json;
    scheduled json;
BEGIN
    PERFORM ingest_begin(p_tenant);
    PERFORM pg_advisory_xact_lock(hashtextextended(name, 0))
        FROM (SELECT name FROM unnest(p_names) AS n(name) ORDER BY hashtextextended(name, 0)) AS s;
    SELECT json_agg(locked) INTO studies FROM (
        SELECT s.study_uid, s.id, s.patient_id, s.dicom_patient_id, s.issuer_of_patient_id,
            s.patient_name, s.patient_birth_date, s.patient_sex, s.modality,
            s.modalities_in_study AS modalities, s.sop_classes_in_study AS sop_classes,
            s.number_of_series, s.number_of_instances, s.demographics_conflict, s.dicom_json,
            s.xmin::text AS revision
        FROM imaging_studies AS s
        WHERE s.tenant_id = p_tenant AND s.study_uid = ANY (p_studies)
        ORDER BY s.study_uid FOR UPDATE) AS locked;
    -- A statement of its own: the completeness check locks these rows and not the studies, and only
    -- a statement that begins after the lock is held sees what the check decided.
    SELECT json_agg(locked.study_uid) FILTER (WHERE locked.check_scheduled) INTO scheduled FROM (
        SELECT s.study_uid, a.check_scheduled
        FROM study_activity AS a
        JOIN imaging_studies AS s ON s.tenant_id = a.tenant_id AND s.id = a.study_id
        WHERE a.tenant_id = p_tenant AND s.tenant_id = p_tenant AND s.study_uid = ANY (p_studies)
        ORDER BY s.study_uid FOR UPDATE OF a) AS locked;
    -- Last, so that what another process stored into these studies is seen.
    RETURN json_build_object(
        'studies', studies,
        'scheduled', scheduled,
        -- Whoever changes rules touches the tenant's settings, so a revision tells of it.
        'has_routes', EXISTS (SELECT FROM dicom_routing_rules AS r
            WHERE r.tenant_id = p_tenant AND r.enabled),
        'query_tags', (SELECT json_agg(known) FROM (
            SELECT q.id, q.path, q.private_creator, q.vr FROM dicom_query_tags AS q
            WHERE q.tenant_id = p_tenant AND q.status <> 'DROPPING') AS known),
        'settings', (SELECT row_to_json(known) FROM (
            SELECT t.default_issuer_of_patient_id AS issuer, t.quiet_window_seconds,
                t.allow_storing_deleted, t.xmin::text AS revision
            FROM tenant_settings AS t WHERE t.tenant_id = p_tenant) AS known),
        'patients', (SELECT json_agg(known) FROM (
            SELECT i.value, coalesce(i.assigner, '') AS issuer, p.id, p.last_name, p.first_name,
                p.middle_name, to_char(p.dob, 'YYYYMMDD') AS birth_date, p.sex_at_birth
            -- OFFSET 0: the identifiers are looked for first, by their index, and never all
            -- patients of the tenant for the sake of a join.
            FROM (SELECT k.patient_id, k.value, k.assigner FROM patient_identifiers AS k
                WHERE k.tenant_id = p_tenant AND k.system = 'MRN' AND k.value = ANY (p_patients)
                    AND coalesce(k.valid_from, current_date) <= current_date
                    AND coalesce(k.valid_until, current_date) >= current_date OFFSET 0) AS i
            JOIN patients AS p ON p.id = i.patient_id
            WHERE p.tenant_id = p_tenant AND p.status <> 'INACTIVE') AS known),
        'series', (SELECT json_agg(known) FROM (
            SELECT s.study_uid, e.series_uid, e.id, e.number_of_instances
            FROM imaging_series AS e
            JOIN imaging_studies AS s ON s.tenant_id = e.tenant_id AND s.id = e.study_id
            WHERE e.tenant_id = p_tenant AND s.tenant_id = p_tenant
                AND s.study_uid = ANY (p_studies) AND e.series_uid = ANY (p_series)) AS known),
        'objects', (SELECT json_agg(known) FROM (
            SELECT o.sop_instance_uid, o.dataset_hash, o.transfer_syntax_uid, o.storage_uri,
                o.byte_size
            FROM imaging_objects AS o
            WHERE o.tenant_id = p_tenant AND o.sop_instance_uid = ANY (p_objects)) AS known),
        'deleted', (SELECT json_agg(DISTINCT r.sop_instance_uid) FROM removed_objects AS r
            WHERE r.tenant_id = p_tenant AND r.sop_instance_uid = ANY (p_objects)),
        'deleted_studies', (SELECT json_agg(uid) FROM unnest(p_studies) AS wanted(uid)
            WHERE EXISTS (SELECT FROM removed_objects AS r
                WHERE r.tenant_id = p_tenant AND r.study_instance_uid = wanted.uid)));
END;
$$;

-- Bind the transaction and lock studies as the caller last saw them. False when anything has
-- changed since: a study, its pending completeness check, the tenant's settings, or when one of the
-- objects is stored already or was deleted; the caller then rolls back. A revision is an xmin: the
-- transaction that wrote the row.
CREATE OR REPLACE FUNCTION ingest_resume(p_tenant uuid, p_studies uuid[], p_revisions text[],
        p_scheduled uuid[], p_settings text, p_objects text[])
    RETURNS boolean LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
DECLARE
    held bigint;
BEGIN
    PERFORM ingest_begin(p_tenant);
    PERFORM FROM imaging_studies AS s
        WHERE s.tenant_id = p_tenant AND s.id = ANY (p_studies)
            AND s.xmin::text = p_revisions[array_position(p_studies, s.id)]
        ORDER BY s.study_uid FOR UPDATE;
    GET DIAGNOSTICS held = ROW_COUNT;
    IF held <> cardinality(p_studies) THEN
        RETURN false;
    END IF;
    PERFORM FROM study_activity AS a
        WHERE a.tenant_id = p_tenant AND a.study_id = ANY (p_scheduled) AND a.check_scheduled
        ORDER BY a.study_id FOR UPDATE;
    GET DIAGNOSTICS held = ROW_COUNT;
    RETURN held = cardinality(p_scheduled)
        AND p_settings = coalesce(
            (SELECT t.xmin::text FROM tenant_settings AS t WHERE t.tenant_id = p_tenant), '')
        AND NOT EXISTS (SELECT FROM imaging_objects AS o
            WHERE o.tenant_id = p_tenant AND o.sop_instance_uid = ANY (p_objects))
        AND NOT EXISTS (SELECT FROM removed_objects AS r
            WHERE r.tenant_id = p_tenant AND r.sop_instance_uid = ANY (p_objects));
END;
$$;

-- Studies that nobody has sent anything of before, and their patients where those are new as well.
CREATE OR REPLACE FUNCTION ingest_create_studies(p_tenant uuid, p_patients json, p_studies json)
    RETURNS void LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
BEGIN
    INSERT INTO patients (tenant_id, id, last_name, first_name, middle_name, name_prefix,
        name_suffix, dob, sex_at_birth)
        SELECT p_tenant, r.id, r.last_name, r.first_name, r.middle_name, r.name_prefix,
            r.name_suffix, r.dob, r.sex_at_birth
        FROM json_to_recordset(p_patients) AS r(id uuid, last_name text, first_name text,
            middle_name text, name_prefix text, name_suffix text, dob date, sex_at_birth text);
    INSERT INTO patient_identifiers (tenant_id, patient_id, system, assigner, value, is_primary)
        SELECT p_tenant, r.id, 'MRN', r.assigner, r.identifier, true
        FROM json_to_recordset(p_patients) AS r(id uuid, assigner text, identifier text)
        WHERE r.identifier IS NOT NULL;
    INSERT INTO imaging_studies (tenant_id, id, patient_id, study_uid, modality, body_part,
        acquisition_datetime, source_system, study_date, study_time, accession_number,
        dicom_study_id, study_description, referring_physician_name, referring_physician_key,
        patient_name, patient_name_key, dicom_patient_id, issuer_of_patient_id,
        patient_birth_date, patient_sex, modalities_in_study, sop_classes_in_study,
        number_of_series, number_of_instances, demographics_conflict, last_received_at, dicom_json)
        SELECT p_tenant, r.id, r.patient_id, r.study_uid, r.modality, r.body_part,
            r.acquisition_datetime, r.source_system, r.study_date, r.study_time,
            r.accession_number, r.dicom_study_id, r.study_description,
            r.referring_physician_name, r.referring_physician_key, r.patient_name,
            r.patient_name_key, r.dicom_patient_id, r.issuer_of_patient_id, r.patient_birth_date,
            r.patient_sex, r.modalities_in_study, r.sop_classes_in_study, r.number_of_series,
            r.number_of_instances, r.demographics_conflict, now(), r.dicom_json
        FROM json_to_recordset(p_studies) AS r(id uuid, patient_id uuid, study_uid text,
            modality text, body_part text, acquisition_datetime timestamptz, source_system text,
            study_date text, study_time text, accession_number text, dicom_study_id text,
            study_description text, referring_physician_name text, referring_physician_key text,
            patient_name text, patient_name_key text, dicom_patient_id text,
            issuer_of_patient_id text, patient_birth_date text, patient_sex text,
            modalities_in_study text[], sop_classes_in_study text[], number_of_series int,
            number_of_instances int, demographics_conflict jsonb, dicom_json text);
END;
$$;

-- New patients, studies, series and objects, and what changes with them. The series' count lies
-- in its ready JSON as well; the pattern cannot occur inside a JSON string, where a quotation mark
-- would be escaped.
CREATE OR REPLACE FUNCTION ingest_store(p_tenant uuid, p_new_patients json, p_new_studies json,
        p_new_series json, p_series json, p_studies json, p_activity json, p_objects json)
    RETURNS void LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
DECLARE
    changed record;
BEGIN
    IF json_array_length(p_new_studies) > 0 THEN
        PERFORM ingest_create_studies(p_tenant, p_new_patients, p_new_studies);
    END IF;
    IF json_array_length(p_new_series) > 0 THEN
        INSERT INTO imaging_series (tenant_id, id, study_id, series_uid, modality, series_number,
            series_description, body_part_examined, laterality, performed_station_ae_title,
            performed_procedure_step_start_date, performed_procedure_step_start_time,
            performed_procedure_step_id, frame_of_reference_uid, station_name, manufacturer,
            protocol_name, series_date, series_time, number_of_instances, dicom_json)
        SELECT p_tenant, r.id, r.study_id, r.series_uid, r.modality, r.series_number,
            r.series_description, r.body_part_examined, r.laterality, r.performed_station_ae_title,
            r.performed_procedure_step_start_date, r.performed_procedure_step_start_time,
            r.performed_procedure_step_id, r.frame_of_reference_uid, r.station_name,
            r.manufacturer, r.protocol_name, r.series_date, r.series_time, r.number_of_instances,
            r.dicom_json
        FROM json_to_recordset(p_new_series) AS r(id uuid, study_id uuid, series_uid text,
            modality text, series_number int, series_description text, body_part_examined text,
            laterality text, performed_station_ae_title text,
            performed_procedure_step_start_date text, performed_procedure_step_start_time text,
            performed_procedure_step_id text, frame_of_reference_uid text, station_name text,
            manufacturer text, protocol_name text, series_date text, series_time text,
            number_of_instances int, dicom_json text);
    END IF;
    -- Row by row: a join with rows of unknown number may read all studies of the tenant.
    FOR changed IN SELECT r.* FROM json_to_recordset(p_series) AS r(id uuid,
            number_of_instances int) LOOP
        UPDATE imaging_series AS e
            SET number_of_instances = changed.number_of_instances, metadata_gzip = NULL,
                dicom_json = regexp_replace(e.dicom_json,
                    '("00201209":\{"vr":"IS","Value":\[)[0-9]+',
                    '\1' || changed.number_of_instances::text)
            WHERE e.tenant_id = p_tenant AND e.id = changed.id;
    END LOOP;
    FOR changed IN SELECT r.* FROM json_to_recordset(p_studies) AS r(id uuid, modality text,
            modalities_in_study text[], sop_classes_in_study text[], number_of_series int,
            number_of_instances int, patient_name text, patient_name_key text,
            patient_birth_date text, patient_sex text, demographics_conflict jsonb,
            dicom_json text) LOOP
        UPDATE imaging_studies AS s
            SET modality = changed.modality, modalities_in_study = changed.modalities_in_study,
                sop_classes_in_study = changed.sop_classes_in_study,
                number_of_series = changed.number_of_series,
                number_of_instances = changed.number_of_instances,
                patient_name = changed.patient_name, patient_name_key = changed.patient_name_key,
                patient_birth_date = changed.patient_birth_date,
                patient_sex = changed.patient_sex,
                demographics_conflict = changed.demographics_conflict, last_received_at = now(),
                dicom_json = changed.dicom_json
            WHERE s.tenant_id = p_tenant AND s.id = changed.id;
    END LOOP;
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
    INSERT INTO imaging_changes (tenant_id, action, patient_id, imaging_object_id,
        study_instance_uid, series_instance_uid, sop_instance_uid)
        SELECT p_tenant, r.action, r.patient_id, r.id, r.study_uid, r.series_uid,
            r.sop_instance_uid
        FROM json_to_recordset(p_objects) AS r(id uuid, action text, patient_id uuid,
            study_uid text, series_uid text, sop_instance_uid text);
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
    PERFORM write_audit_events(p_tenant, p_audits);
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

-- Queue jobs (storage/jobs.py): [{"queue", "task", "args", "schedule_at"}, ...].
CREATE OR REPLACE FUNCTION ingest_defer(p_jobs json) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
BEGIN
    PERFORM procrastinate_defer_jobs_v1(array_agg(
            ROW(j.queue, j.task, 0, NULL, NULL, j.args, j.schedule_at)
                ::procrastinate_job_to_defer_v1))
        FROM json_to_recordset(p_jobs) AS j(queue text, task text, args jsonb,
            schedule_at timestamptz);
END;
$$;

-- All that a batch writes. Returns the revision that the studies have from now on.
CREATE OR REPLACE FUNCTION ingest_write(p_tenant uuid, p_new_patients json, p_new_studies json,
        p_new_series json, p_series json, p_studies json, p_activity json, p_objects json,
        p_jobs json, p_transactions json, p_audits json, p_outbox json, p_stale json)
    RETURNS text LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
BEGIN
    PERFORM ingest_store(p_tenant, p_new_patients, p_new_studies, p_new_series, p_series,
        p_studies, p_activity, p_objects);
    PERFORM ingest_log(p_tenant, p_transactions, p_audits, p_outbox, p_stale);
    IF json_array_length(p_jobs) > 0 THEN
        PERFORM ingest_defer(p_jobs);
    END IF;
    RETURN pg_current_xact_id()::xid::text;
END;
$$;

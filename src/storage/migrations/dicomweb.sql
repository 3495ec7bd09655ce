-- DICOMweb's hot reads: one call each, so that a request is one round trip. All run with the
-- caller's rights: row-level security holds inside them, and every statement carries the tenant
-- besides. The audit row is written with what is returned. Where nothing is returned nothing is
-- written: the caller then reads again, statement by statement, to say why and to audit that.

-- Bind the transaction to a tenant. A search that follows before the next Sync is in the same
-- transaction. An answer to a reader need not wait for the disk: only a crash of the database in
-- the next moments can lose its audit row.
CREATE OR REPLACE FUNCTION dicomweb_begin_search(p_tenant uuid) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
BEGIN
    PERFORM enter_tenant(p_tenant), set_config('synchronous_commit', 'off', true);
END;
$$;

-- The audit row of a search, and whose data it showed; part of the query itself.
CREATE OR REPLACE FUNCTION dicomweb_log_search(p_tenant uuid, p_audit jsonb, p_patients uuid[])
    RETURNS void LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
BEGIN
    IF cardinality(p_patients) = 1 THEN
        PERFORM write_audit_event(p_tenant, p_audit, p_patients[1]);
    ELSE
        PERFORM write_phi_accesses(p_tenant, write_audit_event(p_tenant, p_audit), p_audit,
            p_patients);
    END IF;
END;
$$;

-- One audit row of a read of `p_count` instances of a study and its patient.
CREATE OR REPLACE FUNCTION dicomweb_write_audit(p_tenant uuid, p_audit jsonb, p_study uuid,
        p_patient uuid, p_count int) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
BEGIN
    PERFORM write_audit_event(p_tenant, p_audit || jsonb_build_object('resource_id', p_study,
        'patient_id', p_patient,
        'metadata', (p_audit -> 'metadata') || jsonb_build_object('instances', p_count)));
END;
$$;

-- Where the bytes of an instance are, if its transfer syntax is among p_syntaxes; NULL is any.
CREATE OR REPLACE FUNCTION dicomweb_instance(p_tenant uuid, p_study text, p_series text,
        p_instance text, p_syntaxes text[], p_audit jsonb)
    RETURNS TABLE (study_id uuid, series_uid text, sop_instance_uid text, sop_class_uid text,
        transfer_syntax_uid text, storage_uri text, byte_size bigint)
    LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
DECLARE
    patient uuid;
BEGIN
    PERFORM enter_tenant(p_tenant), set_config('synchronous_commit', 'off', true);
    SELECT s.id, s.patient_id, e.series_uid, o.sop_instance_uid, o.sop_class_uid,
            o.transfer_syntax_uid, o.storage_uri, o.byte_size
        INTO study_id, patient, series_uid, sop_instance_uid, sop_class_uid, transfer_syntax_uid,
            storage_uri, byte_size
        FROM imaging_objects AS o
        JOIN imaging_series AS e ON e.tenant_id = p_tenant AND e.id = o.series_id
        JOIN imaging_studies AS s ON s.tenant_id = p_tenant AND s.id = e.study_id
        WHERE o.tenant_id = p_tenant AND o.sop_instance_uid = p_instance
            AND e.series_uid = p_series AND s.study_uid = p_study
            AND (p_syntaxes IS NULL OR o.transfer_syntax_uid = ANY (p_syntaxes));
    IF FOUND THEN
        PERFORM dicomweb_write_audit(p_tenant, p_audit, study_id, patient, 1);
        RETURN NEXT;
    END IF;
END;
$$;

-- Where frames of an instance are, if it has them all and its transfer syntax is among p_syntaxes.
-- A table of many frames is large: the entries that are wanted are cut out of it here.
CREATE OR REPLACE FUNCTION dicomweb_frames(p_tenant uuid, p_study text, p_series text,
        p_instance text, p_frames int[], p_syntaxes text[], p_audit jsonb)
    RETURNS TABLE (study_id uuid, storage_uri text, transfer_syntax_uid text,
        number_of_frames int, pixel_data_offset bigint, frame_length bigint, frame_table bytea)
    LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
DECLARE
    patient uuid;
BEGIN
    PERFORM enter_tenant(p_tenant), set_config('synchronous_commit', 'off', true);
    SELECT s.id, s.patient_id, o.storage_uri, o.transfer_syntax_uid, o.number_of_frames,
            o.pixel_data_offset, o.frame_length,
            CASE WHEN o.frame_table IS NOT NULL THEN (
                SELECT string_agg(substr(o.frame_table, n * 16 - 15, 16), '' ORDER BY i)
                FROM unnest(p_frames) WITH ORDINALITY AS wanted (n, i)) END
        INTO study_id, patient, storage_uri, transfer_syntax_uid, number_of_frames,
            pixel_data_offset, frame_length, frame_table
        FROM imaging_objects AS o
        JOIN imaging_series AS e ON e.tenant_id = p_tenant AND e.id = o.series_id
        JOIN imaging_studies AS s ON s.tenant_id = p_tenant AND s.id = e.study_id
        WHERE o.tenant_id = p_tenant AND o.sop_instance_uid = p_instance
            AND e.series_uid = p_series AND s.study_uid = p_study
            AND o.transfer_syntax_uid = ANY (p_syntaxes)
            AND o.number_of_frames >= ALL (p_frames);
    IF FOUND AND coalesce(octet_length(frame_table) = 16 * cardinality(p_frames), true) THEN
        PERFORM dicomweb_write_audit(p_tenant, p_audit, study_id, patient, 1);
        RETURN NEXT;
    END IF;
END;
$$;

-- Where the bytes of an instance are and how many images it holds, if p_frame is one of them. What
-- rendering needs besides comes along where it is small: an image that was kept needs none of it.
CREATE OR REPLACE FUNCTION dicomweb_picture(p_tenant uuid, p_study text, p_series text,
        p_instance text, p_frame int, p_audit jsonb)
    RETURNS TABLE (study_id uuid, series_uid text, sop_instance_uid text, sop_class_uid text,
        transfer_syntax_uid text, storage_uri text, byte_size bigint, number_of_frames int,
        pixel_data_offset bigint, frame_length bigint, frame_table bytea, dicom_json text)
    LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
DECLARE
    patient uuid;
    largest CONSTANT int := 32768;
BEGIN
    PERFORM enter_tenant(p_tenant), set_config('synchronous_commit', 'off', true);
    SELECT s.id, s.patient_id, e.series_uid, o.sop_instance_uid, o.sop_class_uid,
            o.transfer_syntax_uid, o.storage_uri, o.byte_size, o.number_of_frames,
            o.pixel_data_offset, o.frame_length, o.frame_table,
            CASE WHEN octet_length(o.dicom_json) <= largest
                AND coalesce(octet_length(o.frame_table), 0) <= largest THEN o.dicom_json END
        INTO study_id, patient, series_uid, sop_instance_uid, sop_class_uid, transfer_syntax_uid,
            storage_uri, byte_size, number_of_frames, pixel_data_offset, frame_length, frame_table,
            dicom_json
        FROM imaging_objects AS o
        JOIN imaging_series AS e ON e.tenant_id = p_tenant AND e.id = o.series_id
        JOIN imaging_studies AS s ON s.tenant_id = p_tenant AND s.id = e.study_id
        WHERE o.tenant_id = p_tenant AND o.sop_instance_uid = p_instance
            AND e.series_uid = p_series AND s.study_uid = p_study
            AND o.number_of_frames >= p_frame;
    IF FOUND THEN
        IF dicom_json IS NULL THEN
            frame_table := NULL;
        END IF;
        PERFORM dicomweb_write_audit(p_tenant, p_audit, study_id, patient, 1);
        RETURN NEXT;
    END IF;
END;
$$;

-- The stored JSON of an instance and the hash of its bytes.
CREATE OR REPLACE FUNCTION dicomweb_instance_metadata(p_tenant uuid, p_study text, p_series text,
        p_instance text, p_audit jsonb)
    RETURNS TABLE (series_uid text, sop_instance_uid text, hash text, dicom_json text)
    LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
DECLARE
    study_id uuid;
    patient uuid;
BEGIN
    PERFORM enter_tenant(p_tenant), set_config('synchronous_commit', 'off', true);
    SELECT s.id, s.patient_id, e.series_uid, o.sop_instance_uid, o.hash, o.dicom_json
        INTO study_id, patient, series_uid, sop_instance_uid, hash, dicom_json
        FROM imaging_objects AS o
        JOIN imaging_series AS e ON e.tenant_id = p_tenant AND e.id = o.series_id
        JOIN imaging_studies AS s ON s.tenant_id = p_tenant AND s.id = e.study_id
        WHERE o.tenant_id = p_tenant AND o.sop_instance_uid = p_instance
            AND e.series_uid = p_series AND s.study_uid = p_study;
    IF FOUND THEN
        PERFORM dicomweb_write_audit(p_tenant, p_audit, study_id, patient, 1);
        RETURN NEXT;
    END IF;
END;
$$;

-- The metadata of a series as it is kept, if its URLs begin with p_root: 32 characters of ETag, a
-- line break, the root, a line break, gzip.
CREATE OR REPLACE FUNCTION dicomweb_series_metadata(p_tenant uuid, p_study text, p_series text,
        p_root text, p_audit jsonb)
    RETURNS TABLE (metadata_gzip bytea)
    LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
DECLARE
    study_id uuid;
    patient uuid;
    instances int;
    head bytea := convert_to(p_root || E'\n', 'UTF8');
BEGIN
    PERFORM enter_tenant(p_tenant), set_config('synchronous_commit', 'off', true);
    SELECT s.id, s.patient_id, e.number_of_instances, e.metadata_gzip
        INTO study_id, patient, instances, metadata_gzip
        FROM imaging_studies AS s
        JOIN imaging_series AS e ON e.tenant_id = p_tenant AND e.study_id = s.id
        WHERE s.tenant_id = p_tenant AND s.study_uid = p_study AND e.series_uid = p_series
            AND substr(e.metadata_gzip, 34, octet_length(head)) = head;
    IF FOUND THEN
        PERFORM dicomweb_write_audit(p_tenant, p_audit, study_id, patient, instances);
        RETURN NEXT;
    END IF;
END;
$$;

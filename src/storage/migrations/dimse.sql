-- What the DIMSE services write beside what they show. With the caller's rights, like dicomweb.sql.

-- One page of a C-FIND: the event at the first page, whose id is returned for those that follow,
-- and the patients of its rows whom no page before has shown.
CREATE OR REPLACE FUNCTION dimse_log_find(p_tenant uuid, p_event uuid, p_audit jsonb,
        p_patients uuid[], p_shown uuid[]) RETURNS uuid
    LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
BEGIN
    IF cardinality(p_patients) > 1 OR cardinality(p_shown) > 0 THEN
        p_patients := ARRAY(SELECT unnest(p_patients) EXCEPT SELECT unnest(p_shown));
    END IF;
    IF p_event IS NULL AND cardinality(p_patients) = 1 THEN
        RETURN write_audit_event(p_tenant, p_audit, p_patients[1]);
    END IF;
    IF p_event IS NULL THEN
        p_event := write_audit_event(p_tenant, p_audit);
    END IF;
    PERFORM write_phi_accesses(p_tenant, p_event, p_audit, p_patients);
    RETURN p_event;
END;
$$;

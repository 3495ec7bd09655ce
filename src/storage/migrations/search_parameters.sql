-- Search parameters that tenants define (storage/search_parameters.py). Who stores a resource holds
-- the tenant's parameters as they are, shared; who changes them holds them alone, so that every
-- resource is either indexed by the new ones or visible to the job that indexes what was there.

-- Refuse rows that were extracted by other parameters than those in force: the writer reads them
-- anew and tries again. A deletion has no rows and asks for none.
CREATE OR REPLACE FUNCTION fhir_check_search_epoch(p_tenant uuid, p_epochs bigint[]) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
DECLARE
    current_epoch bigint;
    ignored text;
BEGIN
    ignored := pg_advisory_xact_lock_shared(hashtextextended(p_tenant::text || '/search', 0));
    SELECT e.epoch INTO current_epoch FROM fhir_search_epochs AS e WHERE e.tenant_id = p_tenant;
    IF coalesce(current_epoch, 0) <> ANY (p_epochs) THEN
        RAISE EXCEPTION 'the search parameters have changed' USING ERRCODE = 'serialization_failure';
    END IF;
END;
$$;

-- Change the parameters: waits for those who are storing, and returns the new epoch.
CREATE OR REPLACE FUNCTION fhir_next_search_epoch(p_tenant uuid) RETURNS bigint
    LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
DECLARE
    next_epoch bigint;
    ignored text;
BEGIN
    ignored := pg_advisory_xact_lock(hashtextextended(p_tenant::text || '/search', 0));
    INSERT INTO fhir_search_epochs AS e (tenant_id, epoch) VALUES (p_tenant, 1)
    ON CONFLICT (tenant_id) DO UPDATE SET epoch = e.epoch + 1
    RETURNING e.epoch INTO next_epoch;
    RETURN next_epoch;
END;
$$;

-- True, or an error: a search by a parameter whose index is not whole, or not the one that the search
-- was read with. It stands in the query, and so sees what the query sees.
CREATE OR REPLACE FUNCTION fhir_require_parameter(p_tenant uuid, p_definition text, p_epoch bigint)
    RETURNS boolean LANGUAGE plpgsql STABLE SECURITY INVOKER AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM fhir_search_parameters AS p WHERE p.tenant_id = p_tenant
            AND p.definition_id = p_definition AND p.epoch = p_epoch AND p.status = 'READY') THEN
        RAISE EXCEPTION 'the search parameters have changed'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    RETURN true;
END;
$$;

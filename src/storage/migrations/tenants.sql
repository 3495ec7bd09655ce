-- The tree of tenants, the bytes that each stores, and the rate limits that processes share. All
-- run with the caller's rights: row-level security holds inside them.

-- Every tenant with each one above it (a closure table), kept with tenants.parent_tenant_id. One
-- change of the tree at a time, so that two moves cannot make a circle together.
CREATE OR REPLACE FUNCTION keep_tenant_closure() RETURNS trigger
    LANGUAGE plpgsql SECURITY INVOKER AS $$
BEGIN
    IF TG_OP = 'UPDATE' OR NEW.parent_tenant_id IS NOT NULL THEN
        PERFORM pg_advisory_xact_lock(hashtextextended('tenant tree', 0));
    END IF;
    IF TG_OP = 'INSERT' THEN
        INSERT INTO tenant_closure (ancestor_id, descendant_id, depth) VALUES (NEW.id, NEW.id, 0);
    ELSE
        IF EXISTS (SELECT FROM tenant_closure AS c
                WHERE c.ancestor_id = NEW.id AND c.descendant_id = NEW.parent_tenant_id) THEN
            RAISE check_violation USING
                MESSAGE = format('tenant %s cannot lie below %s', NEW.slug, NEW.parent_tenant_id),
                HINT = 'That tenant lies below it already.',
                CONSTRAINT = 'tenant_closure_no_cycle', TABLE = 'tenants';
        END IF;
        DELETE FROM tenant_closure AS link USING tenant_closure AS above, tenant_closure AS below
            WHERE above.descendant_id = NEW.id AND above.depth > 0
                AND below.ancestor_id = NEW.id
                AND link.ancestor_id = above.ancestor_id
                AND link.descendant_id = below.descendant_id;
    END IF;
    INSERT INTO tenant_closure (ancestor_id, descendant_id, depth)
        SELECT above.ancestor_id, below.descendant_id, above.depth + below.depth + 1
        FROM tenant_closure AS above CROSS JOIN tenant_closure AS below
        WHERE above.descendant_id = NEW.parent_tenant_id AND below.ancestor_id = NEW.id;
    RETURN NULL;
END;
$$;

CREATE TRIGGER keep_closure_of_new AFTER INSERT ON tenants
    FOR EACH ROW EXECUTE FUNCTION keep_tenant_closure();
CREATE TRIGGER keep_closure_of_moved AFTER UPDATE OF parent_tenant_id ON tenants
    FOR EACH ROW WHEN (OLD.parent_tenant_id IS DISTINCT FROM NEW.parent_tenant_id)
    EXECUTE FUNCTION keep_tenant_closure();

-- Nobody writes the closure but the triggers above (and the cascade of a deleted tenant).
CREATE OR REPLACE FUNCTION refuse_closure_by_hand() RETURNS trigger
    LANGUAGE plpgsql SECURITY INVOKER AS $$
BEGIN
    IF pg_trigger_depth() < 2 THEN
        RAISE insufficient_privilege USING
            MESSAGE = 'tenant_closure follows tenants.parent_tenant_id',
            HINT = 'Change the parent of the tenant.';
    END IF;
    RETURN NULL;
END;
$$;

CREATE TRIGGER refuse_by_hand BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON tenant_closure
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_closure_by_hand();

-- A grant leads down the tree, never sideways or up.
CREATE OR REPLACE FUNCTION refuse_grant_outside_subtree() RETURNS trigger
    LANGUAGE plpgsql SECURITY INVOKER AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM tenant_closure AS c
            WHERE c.ancestor_id = NEW.tenant_id AND c.descendant_id = NEW.root_tenant_id) THEN
        RAISE foreign_key_violation USING
            MESSAGE = 'tenant_grants.root_tenant_id: no tenant below this one has that id';
    END IF;
    RETURN NEW;
END;
$$;

CREATE TRIGGER refuse_outside_subtree
    BEFORE INSERT OR UPDATE OF tenant_id, root_tenant_id ON tenant_grants
    FOR EACH ROW EXECUTE FUNCTION refuse_grant_outside_subtree();

-- Add to the bytes that a tenant stores; refuse what exceeds its quota. Writers of a tenant with a
-- quota wait for each other at slot 0 until the end of their transactions, so the limit is exact;
-- all others write a slot of their own connection.
CREATE OR REPLACE FUNCTION count_storage(p_tenant uuid, p_bytes bigint) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
DECLARE
    quota bigint;
    used numeric;
BEGIN
    IF coalesce(p_bytes, 0) = 0 THEN
        RETURN;
    END IF;
    IF p_bytes > 0 THEN
        SELECT q.max_storage_bytes INTO quota FROM tenant_quotas AS q WHERE q.tenant_id = p_tenant;
    END IF;
    INSERT INTO tenant_storage_usage AS usage (tenant_id, slot, bytes)
        VALUES (p_tenant, CASE WHEN quota IS NULL THEN 1 + pg_backend_pid() % 31 ELSE 0 END, p_bytes)
        ON CONFLICT (tenant_id, slot) DO UPDATE SET bytes = usage.bytes + excluded.bytes;
    IF quota IS NOT NULL THEN
        -- A statement of its own: it sees what was committed while this one waited for slot 0.
        SELECT sum(usage.bytes) INTO used
            FROM tenant_storage_usage AS usage WHERE usage.tenant_id = p_tenant;
        IF used > quota THEN
            RAISE configuration_limit_exceeded USING
                MESSAGE = format('storage quota of %s bytes would be exceeded', quota),
                HINT = 'Raise it with: interop tenant quota --max-storage-bytes',
                CONSTRAINT = 'tenant_quotas_max_storage_bytes', TABLE = 'tenant_quotas';
        END IF;
    END IF;
END;
$$;

-- Whatever door stores or deletes an object, it is counted here and nowhere else. Into a tenant
-- that is suspended or closed nothing is stored, whatever a process still remembers of it.
CREATE OR REPLACE FUNCTION count_stored_objects() RETURNS trigger
    LANGUAGE plpgsql SECURITY INVOKER AS $$
DECLARE
    entry record;
BEGIN
    IF TG_OP = 'INSERT' THEN
        FOR entry IN SELECT o.tenant_id, sum(o.byte_size)::bigint AS bytes
                FROM changed AS o GROUP BY o.tenant_id LOOP
            CONTINUE WHEN is_in_transit(entry.tenant_id, TG_TABLE_SCHEMA);
            IF EXISTS (SELECT FROM tenants AS t
                    WHERE t.id = entry.tenant_id AND t.status <> 'ACTIVE') THEN
                RAISE object_not_in_prerequisite_state USING
                    MESSAGE = 'the tenant is suspended or closed: nothing is stored',
                    CONSTRAINT = 'tenants_status', TABLE = 'tenants';
            END IF;
            PERFORM count_storage(entry.tenant_id, entry.bytes);
        END LOOP;
    ELSIF TG_OP = 'DELETE' THEN
        FOR entry IN SELECT o.tenant_id, sum(o.byte_size)::bigint AS bytes
                FROM changed AS o GROUP BY o.tenant_id LOOP
            CONTINUE WHEN is_in_transit(entry.tenant_id, TG_TABLE_SCHEMA);
            PERFORM count_storage(entry.tenant_id, -entry.bytes);
        END LOOP;
    ELSE
        FOR entry IN SELECT o.tenant_id, sum(o.bytes)::bigint AS bytes
                FROM (SELECT tenant_id, byte_size AS bytes FROM changed
                    UNION ALL SELECT tenant_id, -byte_size FROM former) AS o
                GROUP BY o.tenant_id LOOP
            CONTINUE WHEN is_in_transit(entry.tenant_id, TG_TABLE_SCHEMA);
            PERFORM count_storage(entry.tenant_id, entry.bytes);
        END LOOP;
    END IF;
    RETURN NULL;
END;
$$;

CREATE TRIGGER count_stored AFTER INSERT ON imaging_objects
    REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION count_stored_objects();
CREATE TRIGGER count_changed AFTER UPDATE ON imaging_objects
    REFERENCING OLD TABLE AS former NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION count_stored_objects();
CREATE TRIGGER count_deleted AFTER DELETE ON imaging_objects
    REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION count_stored_objects();

-- What is refused and kept lies in the same store.
CREATE TRIGGER count_stored AFTER INSERT ON quarantined_objects
    REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION count_stored_objects();
CREATE TRIGGER count_changed AFTER UPDATE ON quarantined_objects
    REFERENCING OLD TABLE AS former NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION count_stored_objects();
CREATE TRIGGER count_deleted AFTER DELETE ON quarantined_objects
    REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION count_stored_objects();

-- Settle what a process spent on credit (p_debt; negative: units given back), then hand it up to
-- p_wanted units of a bucket that holds p_limit and fills in a minute. One round trip.
CREATE OR REPLACE FUNCTION lease_rate_units(p_tenant uuid, p_subject text, p_limit float8,
        p_debt float8, p_wanted float8)
    RETURNS TABLE (granted float8, left_over float8)
    LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
DECLARE
    moment timestamptz := clock_timestamp();
BEGIN
    PERFORM enter_tenant(p_tenant), set_config('synchronous_commit', 'off', true);
    INSERT INTO rate_limit_buckets AS bucket (tenant_id, subject, tokens, filled_at)
        VALUES (p_tenant, p_subject, p_limit, moment)
        ON CONFLICT (tenant_id, subject) DO UPDATE SET
            -- Whoever waited for the row may come with an older moment: nothing is unfilled.
            tokens = least(p_limit, bucket.tokens + p_limit / 60
                * greatest(0, extract(epoch FROM moment - bucket.filled_at))),
            filled_at = greatest(bucket.filled_at, moment);
    UPDATE rate_limit_buckets AS bucket
        SET tokens = bucket.tokens - p_debt
            - greatest(0, least(p_wanted, floor(bucket.tokens - p_debt)))
        FROM (SELECT b.tokens FROM rate_limit_buckets AS b
            WHERE b.tenant_id = p_tenant AND b.subject = p_subject) AS before
        WHERE bucket.tenant_id = p_tenant AND bucket.subject = p_subject
        RETURNING before.tokens - p_debt - bucket.tokens, bucket.tokens INTO granted, left_over;
    RETURN NEXT;
END;
$$;

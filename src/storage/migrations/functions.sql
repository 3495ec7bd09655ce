-- Functions that the schema itself needs. All run with the caller's rights, so that row-level
-- security holds inside them; names are unqualified, so that a schema per tenant can have its own.

-- Bind the transaction to a tenant, where the tenant lives and nowhere else: tenants.place names the
-- schema of this database ('-': another database; '': on its way). A tenant that is moved is marked
-- first; whoever begins after that is turned away here, so nothing is written to the place it left.
CREATE OR REPLACE FUNCTION enter_tenant(p_tenant uuid) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
DECLARE
    home text;
    ignored text;
BEGIN
    SELECT t.place INTO home FROM tenants AS t WHERE t.id = p_tenant;
    IF home <> current_schema() THEN
        RAISE cannot_connect_now USING
            MESSAGE = 'the rows of this tenant lie in another place',
            CONSTRAINT = 'tenants_place', TABLE = 'tenants';
    END IF;
    -- An assignment is evaluated as it stands; PERFORM would run a statement of its own.
    ignored := set_config('app.tenant', p_tenant::text, true);
END;
$$;

-- Whether rows of a tenant are on their way: the mover says so (storage.partitions.moving), and the
-- tenant lives in another place than the schema that they are written to or removed from. They then
-- stay as they are: triggers change, count, refuse and announce nothing. Where a tenant lives nobody
-- is believed who says so.
CREATE OR REPLACE FUNCTION is_in_transit(p_tenant uuid, p_schema name) RETURNS boolean
    LANGUAGE plpgsql STABLE SECURITY INVOKER AS $$
BEGIN
    RETURN coalesce(current_setting('app.moving', true) = 'on', false)
        AND NOT EXISTS (SELECT FROM tenants AS t WHERE t.id = p_tenant AND t.place = p_schema);
END;
$$;

-- Provenance (data-schema.md XI): who changed a row and when. A writer that names the person in
-- updated_by is believed; else it is the actor of the transaction, else the database role.
CREATE OR REPLACE FUNCTION touch_row() RETURNS trigger
    LANGUAGE plpgsql SECURITY INVOKER AS $$
BEGIN
    -- Not NULL where nothing moves: AND would look at the row then, and make JSON of all of it.
    IF coalesce(current_setting('app.moving', true), '') = 'on'
            AND is_in_transit((to_jsonb(NEW) ->> 'tenant_id')::uuid, TG_TABLE_SCHEMA) THEN
        RETURN NEW;
    END IF;
    NEW.updated_at := now();
    IF NEW.updated_by IS NULL OR NEW.updated_by IS NOT DISTINCT FROM OLD.updated_by THEN
        NEW.updated_by := coalesce(nullif(current_setting('app.actor', true), ''), current_user);
    END IF;
    RETURN NEW;
END;
$$;

-- A column that may name a row of the platform or of the same tenant cannot have a composite
-- foreign key, and a plain one accepts the rows of other tenants: foreign keys are checked without
-- row-level security (reliability.md M12). Not-yours and not-there are answered alike.
-- Arguments: the column, the table that it points into.
CREATE OR REPLACE FUNCTION refuse_foreign_platform_row() RETURNS trigger
    LANGUAGE plpgsql SECURITY INVOKER AS $$
DECLARE
    target uuid := (to_jsonb(NEW) ->> TG_ARGV[0])::uuid;
    is_reachable boolean;
BEGIN
    IF target IS NULL THEN
        RETURN NEW;
    END IF;
    EXECUTE format(
        'SELECT EXISTS (SELECT FROM %I WHERE id = $1 AND (tenant_id IS NULL OR tenant_id = $2))',
        TG_ARGV[1]
    ) INTO is_reachable USING target, NEW.tenant_id;
    IF NOT is_reachable THEN
        RAISE foreign_key_violation USING
            MESSAGE = format('%s.%s: no row %s in %s', TG_TABLE_NAME, TG_ARGV[0], target, TG_ARGV[1]),
            HINT = 'It must be a row of the platform or of the same tenant.';
    END IF;
    RETURN NEW;
END;
$$;

-- billing_plans is the name that data-schema.md VI gives to subscription_plans. A view, so that the
-- name works in SQL tools and reports too, with the rights of whoever asks.
CREATE OR REPLACE VIEW billing_plans WITH (security_invoker = true) AS
    SELECT * FROM subscription_plans;

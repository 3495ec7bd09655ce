-- The change feed's numbers. A number that is taken while a change is written says nothing about
-- when it commits: a reader that has seen 7 would never look for the 6 that commits later, and a
-- rolled back transaction leaves a gap. So a change gets its number afterwards, from whoever asks
-- next: under a lock, what is committed by then is numbered on from the last number. What commits
-- later gets a higher one, always. Among what waits, the order is that of the identity column: of
-- one study it was taken under the study's lock, so that a deletion follows what it deletes.
--
-- Writers take no lock for it: a counter of their own would let only one of them commit at a time.
CREATE OR REPLACE FUNCTION number_imaging_changes(p_tenant uuid, p_most int) RETURNS bigint
    LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
DECLARE
    last bigint;
    numbered bigint;
BEGIN
    IF NOT EXISTS (SELECT FROM imaging_changes AS c
            WHERE c.tenant_id = p_tenant AND c.sequence IS NULL) THEN
        RETURN 0;
    END IF;
    INSERT INTO imaging_change_feeds (tenant_id) VALUES (p_tenant)
        ON CONFLICT (tenant_id) DO NOTHING;
    SELECT f.last_sequence INTO last FROM imaging_change_feeds AS f
        WHERE f.tenant_id = p_tenant FOR UPDATE;
    -- A statement of its own: it sees what was numbered while this one waited for the lock.
    UPDATE imaging_changes AS c SET sequence = last + waiting.place
        FROM (SELECT w.id, row_number() OVER (ORDER BY w.id) AS place
            FROM (SELECT u.id FROM imaging_changes AS u
                WHERE u.tenant_id = p_tenant AND u.sequence IS NULL
                ORDER BY u.id LIMIT p_most) AS w) AS waiting
        WHERE c.tenant_id = p_tenant AND c.id = waiting.id;
    GET DIAGNOSTICS numbered = ROW_COUNT;
    UPDATE imaging_change_feeds AS f SET last_sequence = last + numbered
        WHERE f.tenant_id = p_tenant;
    RETURN numbered;
END;
$$;

-- Forget what is older than a time: from the beginning up to the first entry that is not, so that
-- what is left has no gap.
CREATE OR REPLACE FUNCTION prune_imaging_changes(p_tenant uuid, p_before timestamptz, p_most int)
    RETURNS bigint LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
DECLARE
    pruned bigint;
    through bigint;
    last bigint;
BEGIN
    SELECT f.pruned_through, f.last_sequence INTO pruned, last FROM imaging_change_feeds AS f
        WHERE f.tenant_id = p_tenant FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    SELECT c.sequence - 1 INTO through FROM imaging_changes AS c
        WHERE c.tenant_id = p_tenant AND c.sequence > pruned AND c.changed_at >= p_before
        ORDER BY c.sequence LIMIT 1;
    through := least(coalesce(through, last), pruned + p_most);
    DELETE FROM imaging_changes AS c WHERE c.tenant_id = p_tenant AND c.sequence <= through;
    UPDATE imaging_change_feeds AS f SET pruned_through = through
        WHERE f.tenant_id = p_tenant AND f.pruned_through < through;
    RETURN through - pruned;
END;
$$;

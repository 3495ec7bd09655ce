-- Fuzzy matching of names (PS3.18 8.3.4.2): each word of a name is a row, with how it sounds. One
-- function says how, for what is stored and for what is asked.

-- How a word of A to Z sounds, roughly, in the languages of Europe: vowels count only at its
-- beginning, and H nowhere; letters and groups that sound alike are one. NULL for words of other letters, and for
-- initials, which sound like too many.
CREATE OR REPLACE FUNCTION name_sound(p_word text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT CASE WHEN p_word ~ '^[A-Z]{2,64}$' THEN
        regexp_replace(
            regexp_replace(
                translate(
                    regexp_replace(
                        regexp_replace(
                            regexp_replace(
                                regexp_replace(
                                    regexp_replace(p_word, 'T?SCH|T?SH|T?Z', 'S', 'g'),
                                    'PH', 'F', 'g'),
                                'CH|CK|GH|KH', 'K', 'g'),
                            'C(?=[EIY])', 'S', 'g'),
                        '^[YJ]', 'J'),
                    'BCDVWGQXZHY', 'PKTFFKKKS'),
                '(?<!^)[AEIOU]', '', 'g'),
            '(.)\1+', '\1', 'g')
    END
$$;

-- A word is what stands between the marks of a PN and of names themselves. One statement for both
-- names: to start one costs as much as its rows.
CREATE OR REPLACE FUNCTION index_study_names() RETURNS trigger
    LANGUAGE plpgsql SECURITY INVOKER AS $$
BEGIN
    -- Rows on their way to another place bring theirs with them.
    IF coalesce(current_setting('app.moving', true), '') = 'on'
            AND is_in_transit(NEW.tenant_id, TG_TABLE_SCHEMA) THEN
        RETURN NULL;
    END IF;
    IF TG_OP = 'UPDATE' THEN
        DELETE FROM imaging_name_words AS w
            WHERE w.tenant_id = NEW.tenant_id AND w.study_id = NEW.id
                AND w.tag IN ('00100010', '00080090');
    END IF;
    INSERT INTO imaging_name_words (tenant_id, study_id, tag, word, sound)
        SELECT DISTINCT NEW.tenant_id, NEW.id, n.tag, left(w.word, 64),
            name_sound(left(w.word, 64))
        FROM (VALUES ('00100010', NEW.patient_name_key),
                ('00080090', NEW.referring_physician_key)) AS n(tag, name),
            regexp_split_to_table(n.name, '[\^= .,''-]+') WITH ORDINALITY AS w(word, place)
        WHERE w.word <> '' AND w.place <= 40
        ON CONFLICT DO NOTHING;
    RETURN NULL;
END;
$$;

CREATE TRIGGER index_names_on_insert AFTER INSERT ON imaging_studies
    FOR EACH ROW WHEN (NEW.patient_name_key <> '' OR NEW.referring_physician_key <> '')
    EXECUTE FUNCTION index_study_names();
CREATE TRIGGER index_names_on_update AFTER UPDATE ON imaging_studies
    FOR EACH ROW WHEN (OLD.patient_name_key IS DISTINCT FROM NEW.patient_name_key
        OR OLD.referring_physician_key IS DISTINCT FROM NEW.referring_physician_key)
    EXECUTE FUNCTION index_study_names();

-- -- dates and times in the zone of a query --------------------------------------------------

-- The offset that stored JSON states in TimezoneOffsetFromUTC, in minutes; NULL if none.
CREATE OR REPLACE FUNCTION dicom_zone(p_json text) RETURNS int
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT CASE WHEN zone ~ '^[+-](0[0-9]|1[0-4])[0-5][0-9]$' THEN
        (substr(zone, 1, 1) || '1')::int
            * (substr(zone, 2, 2)::int * 60 + substr(zone, 4, 2)::int)
    END
    FROM (SELECT substring(p_json FROM '"00080201":\{[^}]*"Value":\["([^"]*)"') AS zone) AS z
$$;

-- A date and a time as one text, in the zone p_wanted (minutes) where the zone of the values,
-- p_zone, is known and they are a moment; else as they are. The time begins at the ninth character.
CREATE OR REPLACE FUNCTION dicom_in_zone(p_date text, p_time text, p_zone int, p_wanted int)
    RETURNS text LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    parts text[];
BEGIN
    parts := regexp_match(coalesce(p_time, ''), '^([01][0-9]|2[0-3])(?:([0-5][0-9])(.*))?$');
    IF p_zone IS NULL OR p_zone = p_wanted OR parts IS NULL
            OR p_date !~ '^[0-9]{4}(0[1-9]|1[0-2])([0-2][0-9]|3[01])$' THEN
        RETURN rpad(p_date, 8) || coalesce(p_time, '');
    END IF;
    RETURN to_char(
        make_timestamp(substr(p_date, 1, 4)::int, substr(p_date, 5, 2)::int,
            substr(p_date, 7, 2)::int, parts[1]::int, coalesce(parts[2], '00')::int, 0)
            + make_interval(mins => p_wanted - p_zone),
        'YYYYMMDDHH24MI') || coalesce(parts[3], '');
EXCEPTION WHEN datetime_field_overflow OR invalid_datetime_format THEN
    -- The 30th of February, as it was sent.
    RETURN rpad(p_date, 8) || coalesce(p_time, '');
END;
$$;

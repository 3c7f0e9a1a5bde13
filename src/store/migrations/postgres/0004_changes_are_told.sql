-- Whoever writes lines, servers or settings wakes the bridges that listen; they
-- poll as well. Where phone_lines belongs to another role or is no table, the
-- trigger cannot be made and the poll has to do.
CREATE FUNCTION sipbridge_lines_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('sipbridge_lines', '');
    RETURN NULL;
END $$;

DO $$
DECLARE
    wanted TEXT;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['phone_lines', 'sip_servers', 'settings'] LOOP
        BEGIN
            EXECUTE format(
                'CREATE TRIGGER sipbridge_lines_changed
                    AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON %I
                    FOR EACH STATEMENT EXECUTE FUNCTION sipbridge_lines_changed()',
                wanted
            );
        EXCEPTION WHEN insufficient_privilege OR wrong_object_type THEN
            RAISE NOTICE 'no trigger on %: its changes are found by polling', wanted;
        END;
    END LOOP;
END $$;

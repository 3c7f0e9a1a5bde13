-- What production's table has not. custom_parameters is a JSON object as text.
-- Only what is missing is added: where the table belongs to another role, its
-- owner may add the columns, and this then needs no right to alter it.
DO $$
DECLARE
    wanted RECORD;
BEGIN
    FOR wanted IN SELECT * FROM (VALUES
        ('sip_server_id', 'TEXT'),
        ('max_concurrent_calls', 'INTEGER'),
        ('greeting', 'TEXT'),
        ('announcement', 'TEXT'),
        ('fallback_number', 'TEXT'),
        ('custom_parameters', 'TEXT')
    ) AS columns (name, type) LOOP
        IF NOT EXISTS (
            SELECT 1 FROM pg_attribute
            WHERE attrelid = 'phone_lines'::regclass
                AND attname = wanted.name AND NOT attisdropped
        ) THEN
            EXECUTE format('ALTER TABLE phone_lines ADD COLUMN %I %s', wanted.name, wanted.type);
        END IF;
    END LOOP;
END $$;

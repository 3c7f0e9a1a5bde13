-- A line's own way to its worker, who is told of its calls, its name for people, and
-- which of these addresses a client wrote: a JSON array as text; and which SIP headers
-- its calls make of their parameters: a JSON object as text. Only what is missing is
-- added: where the table belongs to another role, its owner may add the columns,
-- and this then needs no right to alter it.
DO $$
DECLARE
    wanted TEXT;
BEGIN
    FOREACH wanted IN ARRAY ARRAY[
        'ws_target',
        'voice_url',
        'voice_method',
        'voice_fallback_url',
        'voice_fallback_method',
        'status_callback',
        'status_callback_method',
        'friendly_name',
        'client_urls',
        'sip_headers'
    ] LOOP
        IF NOT EXISTS (
            SELECT 1 FROM pg_attribute
            WHERE attrelid = 'phone_lines'::regclass
                AND attname = wanted AND NOT attisdropped
        ) THEN
            EXECUTE format('ALTER TABLE phone_lines ADD COLUMN %I TEXT', wanted);
        END IF;
    END LOOP;
END $$;

-- The auth token of a line that is Twilio's, encrypted as passwords are. Where the table belongs to
-- another role, its owner may add the column, and this then needs no right to alter it.
DO $$
BEGIN
    IF NOT EXISTS (
        SELECT 1 FROM pg_attribute
        WHERE attrelid = 'phone_lines'::regclass
            AND attname = 'twilio_auth_token' AND NOT attisdropped
    ) THEN
        ALTER TABLE phone_lines ADD COLUMN twilio_auth_token TEXT;
    END IF;
END $$;

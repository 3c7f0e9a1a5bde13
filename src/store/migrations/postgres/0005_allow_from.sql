-- Networks that a server's calls come from beside its own addresses, with commas
-- between. Where the table belongs to another role, its owner may add the column,
-- and this then needs no right to alter it.
DO $$
BEGIN
    IF NOT EXISTS (
        SELECT 1 FROM pg_attribute
        WHERE attrelid = 'sip_servers'::regclass
            AND attname = 'allow_from' AND NOT attisdropped
    ) THEN
        ALTER TABLE sip_servers ADD COLUMN allow_from TEXT;
    END IF;
END $$;

-- What production's table has not. custom_parameters is a JSON object as text.
ALTER TABLE phone_lines ADD COLUMN sip_server_id TEXT;
ALTER TABLE phone_lines ADD COLUMN max_concurrent_calls INTEGER;
ALTER TABLE phone_lines ADD COLUMN greeting TEXT;
ALTER TABLE phone_lines ADD COLUMN announcement TEXT;
ALTER TABLE phone_lines ADD COLUMN fallback_number TEXT;
ALTER TABLE phone_lines ADD COLUMN custom_parameters TEXT;

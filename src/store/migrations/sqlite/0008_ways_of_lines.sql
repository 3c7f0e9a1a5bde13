-- A line's own way to its worker, who is told of its calls, its name for people, and
-- which of these addresses a client wrote: a JSON array as text; and which SIP headers
-- its calls make of their parameters: a JSON object as text.
ALTER TABLE phone_lines ADD COLUMN ws_target TEXT;
ALTER TABLE phone_lines ADD COLUMN voice_url TEXT;
ALTER TABLE phone_lines ADD COLUMN voice_method TEXT;
ALTER TABLE phone_lines ADD COLUMN voice_fallback_url TEXT;
ALTER TABLE phone_lines ADD COLUMN voice_fallback_method TEXT;
ALTER TABLE phone_lines ADD COLUMN status_callback TEXT;
ALTER TABLE phone_lines ADD COLUMN status_callback_method TEXT;
ALTER TABLE phone_lines ADD COLUMN friendly_name TEXT;
ALTER TABLE phone_lines ADD COLUMN client_urls TEXT;
ALTER TABLE phone_lines ADD COLUMN sip_headers TEXT;

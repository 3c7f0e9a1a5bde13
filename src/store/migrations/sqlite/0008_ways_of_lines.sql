-- A line's own way to its worker, and who is told of its calls.
ALTER TABLE phone_lines ADD COLUMN ws_target TEXT;
ALTER TABLE phone_lines ADD COLUMN voice_url TEXT;
ALTER TABLE phone_lines ADD COLUMN voice_method TEXT;
ALTER TABLE phone_lines ADD COLUMN voice_fallback_url TEXT;
ALTER TABLE phone_lines ADD COLUMN voice_fallback_method TEXT;
ALTER TABLE phone_lines ADD COLUMN status_callback TEXT;
ALTER TABLE phone_lines ADD COLUMN status_callback_method TEXT;

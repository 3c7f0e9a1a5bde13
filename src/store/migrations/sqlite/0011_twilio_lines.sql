-- The auth token of a line that is Twilio's, encrypted as passwords are.
ALTER TABLE phone_lines ADD COLUMN twilio_auth_token TEXT;

-- The call whose <Dial> placed this one.
ALTER TABLE calls ADD COLUMN parent_call_id TEXT;
CREATE INDEX calls_by_parent ON calls (parent_call_id) WHERE parent_call_id IS NOT NULL;

-- Who answered a call that was placed, where a detection has told: human, machine_start and so on.
ALTER TABLE calls ADD COLUMN answered_by TEXT;

-- What went wrong with the audio of a call that is over: a JSON object of counts
-- that are not zero, by the names that /metrics has too. Null in older records.
ALTER TABLE calls ADD COLUMN audio_counters TEXT;

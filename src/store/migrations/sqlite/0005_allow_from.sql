-- Networks that a server's calls come from beside its own addresses, with commas
-- between.
ALTER TABLE sip_servers ADD COLUMN allow_from TEXT;

-- phone_lines with the columns it has in production. Where it exists already,
-- it is taken as it is; the next migration adds what is ours.
-- Looked for on the whole search path: production's table may stand in another
-- schema than the tables of ours.
DO $$
BEGIN
    IF to_regclass('phone_lines') IS NULL THEN
        CREATE TABLE phone_lines (
            id TEXT NOT NULL PRIMARY KEY,
            restaurant_id TEXT,
            phone_number TEXT,
            provider TEXT NOT NULL DEFAULT 'sip',
            sip_domain TEXT,
            sip_username TEXT,
            sip_password TEXT,
            twilio_trunk_sid TEXT,
            is_active BOOLEAN NOT NULL DEFAULT TRUE,
            created_at TIMESTAMPTZ NOT NULL DEFAULT now()
        );
    END IF;
END $$;

-- Trunks. A password is encrypted like a line's, with the server's id as salt.
CREATE TABLE IF NOT EXISTS sip_servers (
    id TEXT NOT NULL PRIMARY KEY,
    label TEXT,
    trunk_uri TEXT NOT NULL,
    username TEXT,
    password TEXT,
    contact_host TEXT,
    contact_port INTEGER,
    contact_transport TEXT
);

-- One row per setting: fallback_sip_server_id.
CREATE TABLE settings (
    name TEXT NOT NULL PRIMARY KEY,
    value TEXT
);

-- One row per call, written when it comes and again when it ends. Times are
-- milliseconds since 1970, UTC.
CREATE TABLE calls (
    call_id TEXT NOT NULL PRIMARY KEY,
    sip_call_id TEXT,
    node_id TEXT NOT NULL,
    line_id TEXT NOT NULL,
    restaurant_id TEXT,
    direction TEXT NOT NULL,
    from_number TEXT,
    to_number TEXT,
    started_at BIGINT NOT NULL,
    answered_at BIGINT,
    ended_at BIGINT,
    outcome TEXT,
    attempts BIGINT NOT NULL,
    stream_id TEXT,
    worker TEXT,
    sip_status BIGINT,
    packets_received BIGINT,
    packets_lost BIGINT,
    packets_sent BIGINT,
    jitter_ms DOUBLE PRECISION,
    mos DOUBLE PRECISION
);
CREATE INDEX calls_by_time ON calls (started_at, call_id);
CREATE INDEX calls_by_line ON calls (line_id, started_at, call_id);
CREATE INDEX calls_in_progress ON calls (node_id) WHERE ended_at IS NULL;

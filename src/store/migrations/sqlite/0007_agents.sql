-- The agent of a tenant, whose id is the restaurant_id of its lines. config is a
-- JSON object, updated_at milliseconds since 1970, UTC.
CREATE TABLE agent_configs (
    tenant_id TEXT NOT NULL PRIMARY KEY,
    config TEXT NOT NULL,
    updated_at BIGINT NOT NULL
);

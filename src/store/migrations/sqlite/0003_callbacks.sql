-- Status callbacks that are not delivered yet: body is the JSON that is sent,
-- url the call's own address, null where that of the flags is meant. Times are
-- milliseconds since 1970, UTC.
CREATE TABLE callbacks (
    call_id TEXT NOT NULL,
    sequence BIGINT NOT NULL,
    event TEXT NOT NULL,
    url TEXT,
    body TEXT NOT NULL,
    node_id TEXT NOT NULL,
    made_at BIGINT NOT NULL,
    PRIMARY KEY (call_id, sequence)
);
CREATE INDEX callbacks_by_node ON callbacks (node_id, made_at, call_id, sequence);

-- The last callback of each call in progress: where the bridge died with the
-- call, its receiver is owed one more.
CREATE TABLE callbacks_owed (
    call_id TEXT NOT NULL PRIMARY KEY,
    sequence BIGINT NOT NULL,
    event TEXT NOT NULL,
    url TEXT,
    body TEXT NOT NULL,
    node_id TEXT NOT NULL,
    made_at BIGINT NOT NULL
);
CREATE INDEX callbacks_owed_by_node ON callbacks_owed (node_id);

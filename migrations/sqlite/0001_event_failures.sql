-- The failure ledger. Times are milliseconds since 1970; keys, headers and payloads are bytes.
-- The name event_failures stands for whatever ORCH_ERROR_TABLE says: it is replaced before this file is run.
CREATE TABLE "event_failures" (
    cluster_id          TEXT    NOT NULL,
    consumer_group      TEXT    NOT NULL,
    source_topic        TEXT    NOT NULL,
    source_partition    INTEGER NOT NULL,
    source_offset       INTEGER NOT NULL,
    record_timestamp_ms INTEGER NOT NULL,            -- -1: the record has none
    target_topic        TEXT,
    message_key         BLOB,
    headers             BLOB    NOT NULL,            -- JSON: [[name, value | null | {"hex": ".."}], ..]
    status              TEXT    NOT NULL CHECK (status IN ('RECEIVED', 'SUCCESS', 'FAILED', 'UNKNOWN')),
    attempts            INTEGER NOT NULL,
    dedup_key           TEXT    NOT NULL,
    origin_dedup_key    TEXT,
    error_class         TEXT,
    error_message       TEXT,
    error_chain         TEXT,
    payload             BLOB,
    dead_lettered       INTEGER NOT NULL,
    fence               INTEGER NOT NULL,            -- when the batch was taken: an older one never overwrites
    passed_at           INTEGER,                     -- null while FAILED: provisional
    resolved_at         INTEGER,
    created_at          INTEGER NOT NULL,
    updated_at          INTEGER NOT NULL,
    UNIQUE (cluster_id, consumer_group, source_topic, source_partition, source_offset, record_timestamp_ms)
);

-- The provisional rows of a partition are asked for whenever it is assigned; there are few of them.
CREATE INDEX "event_failures_provisional"
    ON "event_failures" (cluster_id, consumer_group, source_topic, source_partition, source_offset)
    WHERE status = 'FAILED' AND passed_at IS NULL;

-- For the retention.
CREATE INDEX "event_failures_created" ON "event_failures" (created_at);

-- The failure ledger. Times are milliseconds since 1970; keys, headers and payloads are bytes.
-- The name event_failures stands for whatever ORCH_ERROR_TABLE says: it is replaced before this file is run.
--
-- Nearly every row is written twice: RECEIVED, then SUCCESS. The second write is four times cheaper where it is a
-- heap-only tuple update, for which no index may mention a column it changes (status, passed_at, resolved_at,
-- updated_at), and the new version must fit into the same page: hence the fill factor.
-- Collation C: names are told apart by their bytes, compared fast, and no update of the system's locales breaks the
-- index.
CREATE TABLE "event_failures" (
    cluster_id          TEXT COLLATE "C" NOT NULL,
    consumer_group      TEXT COLLATE "C" NOT NULL,
    source_topic        TEXT COLLATE "C" NOT NULL,
    source_partition    INTEGER NOT NULL,
    source_offset       BIGINT  NOT NULL,
    record_timestamp_ms BIGINT  NOT NULL,            -- -1: the record has none
    target_topic        TEXT,
    message_key         BYTEA,
    headers             BYTEA   NOT NULL,            -- JSON: [[name, value | null | {"hex": ".."}], ..]
    status              TEXT    NOT NULL CHECK (status IN ('RECEIVED', 'SUCCESS', 'FAILED', 'UNKNOWN')),
    attempts            BIGINT  NOT NULL,
    dedup_key           TEXT    NOT NULL,
    origin_dedup_key    TEXT,
    error_class         TEXT,
    error_message       TEXT,
    error_chain         TEXT,
    payload             BYTEA,
    dead_lettered       BOOLEAN NOT NULL,
    fence               BIGINT  NOT NULL,            -- when the batch was taken: an older one never overwrites
    passed_at           BIGINT,                      -- null while FAILED: provisional
    resolved_at         BIGINT,
    created_at          BIGINT  NOT NULL,
    updated_at          BIGINT  NOT NULL,
    UNIQUE (cluster_id, consumer_group, source_topic, source_partition, source_offset, record_timestamp_ms)
) WITH (fillfactor = 50);

-- The provisional rows of a partition are asked for whenever it is assigned. This has all that ever failed, for
-- `status` and `passed_at` may not be mentioned (see above); they are few.
CREATE INDEX ON "event_failures" (cluster_id, consumer_group, source_topic, source_partition, source_offset)
    WHERE error_class IS NOT NULL;

-- For the retention.
CREATE INDEX ON "event_failures" (created_at);

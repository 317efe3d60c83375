-- The failure ledger. Times are milliseconds since 1970; keys, headers and payloads are bytes.
-- The name event_failures stands for whatever ORCH_ERROR_TABLE says: it is replaced before this file is run.
-- IF NOT EXISTS: statements like this one are no part of a transaction, so a migration that was cut off is run again.
-- The collation compares texts byte by byte, trailing spaces too: it has a name on MariaDB (/*M! */) and one on MySQL.
CREATE TABLE IF NOT EXISTS `event_failures` (
    cluster_id          VARCHAR(255) NOT NULL,
    consumer_group      VARCHAR(255) NOT NULL,
    source_topic        VARCHAR(249) NOT NULL,
    source_partition    INT          NOT NULL,
    source_offset       BIGINT       NOT NULL,
    record_timestamp_ms BIGINT       NOT NULL,           -- -1: the record has none
    target_topic        TEXT,
    message_key         MEDIUMBLOB,
    headers             MEDIUMBLOB   NOT NULL,           -- JSON: [[name, value | null | {"hex": ".."}], ..]
    status              VARCHAR(8)   NOT NULL CHECK (status IN ('RECEIVED', 'SUCCESS', 'FAILED', 'UNKNOWN')),
    attempts            BIGINT       NOT NULL,
    dedup_key           VARCHAR(512) NOT NULL,
    origin_dedup_key    VARCHAR(512),
    error_class         VARCHAR(32),
    error_message       TEXT,
    error_chain         TEXT,
    payload             MEDIUMBLOB,
    dead_lettered       BOOLEAN      NOT NULL,
    fence               BIGINT       NOT NULL,           -- when the batch was taken: an older one never overwrites
    passed_at           BIGINT,                          -- null while FAILED: provisional
    resolved_at         BIGINT,
    created_at          BIGINT       NOT NULL,
    updated_at          BIGINT       NOT NULL,
    -- Null on all rows but the provisional ones, which are asked for whenever a partition is assigned.
    provisional         BOOLEAN GENERATED ALWAYS AS (CASE WHEN status = 'FAILED' AND passed_at IS NULL THEN 1 END) STORED,
    PRIMARY KEY (cluster_id, consumer_group, source_topic, source_partition, source_offset, record_timestamp_ms),
    KEY provisional (provisional, cluster_id, consumer_group, source_topic, source_partition, source_offset),
    -- For the retention.
    KEY created (created_at)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC CHARACTER SET utf8mb4
    COLLATE /*M!100202 utf8mb4_nopad_bin */ /*!80017 utf8mb4_0900_bin */;

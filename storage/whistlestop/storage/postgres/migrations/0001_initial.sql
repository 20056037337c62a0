-- The tables of Whistlestop on Postgres. Aurora DSQL accepts them as well, once they are rewritten for it (indexes are
-- built ASYNC and ascending, and COLLATE is left out, because "C" is its only collation). Therefore there are no foreign
-- keys, sequences, triggers or partial indexes, and no value over 1 MiB.
-- Columns named `*_ns` are nanoseconds since the Unix epoch. Times of executions_visibility are microseconds. `shard_id`
-- is the hash slot of an execution, 0 to 16383. Keys are compared byte by byte, as on the other stores. `parts` is the
-- number of rows of `chunks` that continue `data`.

CREATE TABLE namespaces (
    id            TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    name          TEXT COLLATE "C" NOT NULL UNIQUE,
    is_global     BOOLEAN NOT NULL DEFAULT FALSE,
    version       BIGINT NOT NULL,
    data          BYTEA NOT NULL,
    data_encoding TEXT NOT NULL DEFAULT 'proto3'
);

-- Leases on ranges of slots. A new holder increments `range_id`, so that an older holder's writes fail.
CREATE TABLE shards (
    shard_id   BIGINT NOT NULL PRIMARY KEY,
    first_slot BIGINT NOT NULL,
    next_slot  BIGINT NOT NULL,
    range_id   BIGINT NOT NULL,
    owner      TEXT NOT NULL,
    expires_ns BIGINT NOT NULL
);

CREATE TABLE executions (
    namespace_id      TEXT COLLATE "C" NOT NULL,
    workflow_id       TEXT COLLATE "C" NOT NULL,
    run_id            TEXT COLLATE "C" NOT NULL,
    shard_id          BIGINT NOT NULL,
    db_record_version BIGINT NOT NULL,
    next_event_id     BIGINT NOT NULL,
    status            BIGINT NOT NULL,
    branch_id         TEXT COLLATE "C" NOT NULL,
    data_encoding     TEXT NOT NULL,
    parts             BIGINT NOT NULL,
    data              BYTEA NOT NULL,
    PRIMARY KEY (namespace_id, workflow_id, run_id)
);

CREATE TABLE current_executions (
    namespace_id      TEXT COLLATE "C" NOT NULL,
    workflow_id       TEXT COLLATE "C" NOT NULL,
    run_id            TEXT COLLATE "C" NOT NULL,
    create_request_id TEXT NOT NULL,
    status            BIGINT NOT NULL,
    start_time_ns     BIGINT NOT NULL,
    close_time_ns     BIGINT NOT NULL,
    PRIMARY KEY (namespace_id, workflow_id)
);

-- One row per batch of events; a later batch of the same branch has a greater node_id (its first event's id).
CREATE TABLE history_node (
    namespace_id  TEXT COLLATE "C" NOT NULL,
    branch_id     TEXT COLLATE "C" NOT NULL,
    node_id       BIGINT NOT NULL,
    next_event_id BIGINT NOT NULL,
    parts         BIGINT NOT NULL,
    data          BYTEA NOT NULL,
    data_encoding TEXT NOT NULL DEFAULT 'proto3',
    PRIMARY KEY (namespace_id, branch_id, node_id)
);

-- The branches that a run reads, so that deleting one run keeps the events that another shares. A run whose own branch
-- has another name than the run has a row with first_event_id 0 for it.
CREATE TABLE forks (
    namespace_id   TEXT COLLATE "C" NOT NULL,
    branch_id      TEXT COLLATE "C" NOT NULL,
    run_id         TEXT COLLATE "C" NOT NULL,
    first_event_id BIGINT NOT NULL,
    next_event_id  BIGINT NOT NULL,
    PRIMARY KEY (namespace_id, branch_id, run_id, first_event_id)
);

CREATE INDEX forks_by_run ON forks (namespace_id, run_id);

-- The rest of values that do not fit into the `data` of their row. `kind` is the table or column, `owner` the row.
CREATE TABLE chunks (
    kind  TEXT COLLATE "C" NOT NULL,
    owner TEXT COLLATE "C" NOT NULL,
    part  BIGINT NOT NULL,
    data  BYTEA NOT NULL,
    PRIMARY KEY (kind, owner, part)
);

CREATE TABLE task_queues (
    namespace_id  TEXT COLLATE "C" NOT NULL,
    task_queue    TEXT COLLATE "C" NOT NULL,
    task_type     BIGINT NOT NULL,
    range_id      BIGINT NOT NULL,
    updated_ns    BIGINT NOT NULL,
    data          BYTEA NOT NULL,
    data_encoding TEXT NOT NULL DEFAULT 'proto3',
    PRIMARY KEY (namespace_id, task_queue, task_type)
);

CREATE TABLE task_queue_pollers (
    namespace_id   TEXT COLLATE "C" NOT NULL,
    task_queue     TEXT COLLATE "C" NOT NULL,
    task_type      BIGINT NOT NULL,
    identity       TEXT COLLATE "C" NOT NULL,
    last_access_ns BIGINT NOT NULL,
    expires_ns     BIGINT NOT NULL,
    data           BYTEA NOT NULL,
    PRIMARY KEY (namespace_id, task_queue, task_type, identity)
);

CREATE INDEX task_queue_pollers_by_expiry ON task_queue_pollers (expires_ns);

CREATE TABLE tasks (
    namespace_id       TEXT COLLATE "C" NOT NULL,
    task_queue         TEXT COLLATE "C" NOT NULL,
    task_type          BIGINT NOT NULL,
    priority           BIGINT NOT NULL,
    task_id            BIGINT NOT NULL,
    workflow_id        TEXT COLLATE "C" NOT NULL,
    run_id             TEXT COLLATE "C" NOT NULL,
    scheduled_event_id BIGINT NOT NULL,
    stamp              BIGINT NOT NULL,
    created_ns         BIGINT NOT NULL,
    query_id           TEXT NOT NULL,
    data               BYTEA NOT NULL,
    PRIMARY KEY (namespace_id, task_queue, task_type, priority, task_id)
);

CREATE INDEX tasks_by_run ON tasks (run_id);

CREATE TABLE timer_tasks (
    namespace_id TEXT COLLATE "C" NOT NULL,
    run_id       TEXT COLLATE "C" NOT NULL,
    workflow_id  TEXT COLLATE "C" NOT NULL,
    kind         TEXT COLLATE "C" NOT NULL,
    fire_at_ns   BIGINT NOT NULL,
    shard_id     BIGINT NOT NULL,
    data         BYTEA NOT NULL,
    PRIMARY KEY (namespace_id, run_id, workflow_id, kind)
);

-- Contains every column, so that a scan of due rows reads only the index.
CREATE INDEX timer_tasks_due ON timer_tasks (fire_at_ns, shard_id)
    INCLUDE (kind, namespace_id, workflow_id, run_id, data);

CREATE TABLE transfer_tasks (
    shard_id      BIGINT NOT NULL,
    task_id       BIGINT NOT NULL,
    namespace_id  TEXT COLLATE "C" NOT NULL,
    workflow_id   TEXT COLLATE "C" NOT NULL,
    run_id        TEXT COLLATE "C" NOT NULL,
    kind          TEXT NOT NULL,
    visible_at_ns BIGINT NOT NULL,
    attempt       BIGINT NOT NULL,
    parts         BIGINT NOT NULL,
    data          BYTEA NOT NULL,
    PRIMARY KEY (shard_id, task_id)
);

CREATE INDEX transfer_tasks_due ON transfer_tasks (visible_at_ns, task_id, shard_id);

CREATE TABLE queries (
    query_id     TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    namespace_id TEXT COLLATE "C" NOT NULL,
    workflow_id  TEXT COLLATE "C" NOT NULL,
    run_id       TEXT COLLATE "C" NOT NULL,
    buffered     BOOLEAN NOT NULL,
    expires_ns   BIGINT NOT NULL,
    parts        BIGINT NOT NULL,
    request      BYTEA NOT NULL,
    answer_parts BIGINT NOT NULL,
    answer       BYTEA
);

CREATE INDEX queries_by_run ON queries (run_id, expires_ns);
CREATE INDEX queries_by_expiry ON queries (expires_ns);

CREATE TABLE executions_visibility (
    namespace_id           TEXT COLLATE "C" NOT NULL,
    run_id                 TEXT COLLATE "C" NOT NULL,
    workflow_id            TEXT COLLATE "C" NOT NULL,
    workflow_type_name     TEXT COLLATE "C" NOT NULL,
    task_queue             TEXT COLLATE "C" NOT NULL,
    status                 BIGINT NOT NULL,
    start_time             BIGINT NOT NULL,
    execution_time         BIGINT NOT NULL,
    close_time             BIGINT,
    execution_duration     BIGINT,
    history_length         BIGINT NOT NULL,
    history_size_bytes     BIGINT NOT NULL,
    state_transition_count BIGINT NOT NULL,
    parent_workflow_id     TEXT COLLATE "C",
    parent_run_id          TEXT COLLATE "C",
    root_workflow_id       TEXT COLLATE "C" NOT NULL,
    root_run_id            TEXT COLLATE "C" NOT NULL,
    search_attributes      TEXT NOT NULL,
    memo                   BYTEA NOT NULL,
    PRIMARY KEY (namespace_id, run_id)
);

-- Open runs come first, as if they closed at the end of time. Within each group, the latest come first.
CREATE INDEX executions_visibility_order ON executions_visibility
    (namespace_id, (COALESCE(close_time, 9223372036854775807)) DESC, start_time DESC, run_id);
CREATE INDEX executions_visibility_by_workflow ON executions_visibility (namespace_id, workflow_id);

CREATE TABLE cluster_membership (
    host_id           TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    role              TEXT NOT NULL,
    rpc_address       TEXT NOT NULL,
    rpc_port          BIGINT NOT NULL,
    session_start_ns  BIGINT NOT NULL,
    last_heartbeat_ns BIGINT NOT NULL,
    expires_ns        BIGINT NOT NULL
);

CREATE TABLE queue (
    queue_name    TEXT COLLATE "C" NOT NULL,
    message_id    BIGINT NOT NULL,
    data          BYTEA NOT NULL,
    data_encoding TEXT NOT NULL DEFAULT 'proto3',
    PRIMARY KEY (queue_name, message_id)
);

-- The tables of Whistlestop on SQLite. Columns named `*_ns` are nanoseconds since the Unix epoch. Times of
-- executions_visibility are microseconds. `shard_id` is the hash slot of an execution, 0 to 16383.

CREATE TABLE namespaces (
    id            TEXT    NOT NULL PRIMARY KEY,
    name          TEXT    NOT NULL UNIQUE,
    is_global     INTEGER NOT NULL DEFAULT 0,
    version       INTEGER NOT NULL,
    data          BLOB    NOT NULL,
    data_encoding TEXT    NOT NULL DEFAULT 'proto3'
) WITHOUT ROWID;

-- Leases on ranges of slots. A new holder increments `range_id`, so that an older holder's writes fail.
CREATE TABLE shards (
    shard_id   INTEGER NOT NULL PRIMARY KEY,
    first_slot INTEGER NOT NULL,
    next_slot  INTEGER NOT NULL,
    range_id   INTEGER NOT NULL,
    owner      TEXT    NOT NULL,
    expires_ns INTEGER NOT NULL
);

-- This table has a rowid: the state is too large for the B-tree of an index, and updates do not change the index.
CREATE TABLE executions (
    namespace_id      TEXT    NOT NULL,
    workflow_id       TEXT    NOT NULL,
    run_id            TEXT    NOT NULL,
    shard_id          INTEGER NOT NULL,
    db_record_version INTEGER NOT NULL,
    next_event_id     INTEGER NOT NULL,
    status            INTEGER NOT NULL,
    branch_id         TEXT    NOT NULL,
    data_encoding     TEXT    NOT NULL,
    data              BLOB    NOT NULL,
    PRIMARY KEY (namespace_id, workflow_id, run_id)
);
-- Only for runs whose branch has another name than the run. Otherwise the name says whose branch it is.
CREATE INDEX executions_by_branch ON executions (namespace_id, branch_id) WHERE branch_id <> run_id;

CREATE TABLE current_executions (
    namespace_id      TEXT    NOT NULL,
    workflow_id       TEXT    NOT NULL,
    run_id            TEXT    NOT NULL,
    create_request_id TEXT    NOT NULL,
    status            INTEGER NOT NULL,
    start_time_ns     INTEGER NOT NULL,
    close_time_ns     INTEGER NOT NULL,
    PRIMARY KEY (namespace_id, workflow_id)
) WITHOUT ROWID;

-- One row per batch of events; a later batch of the same branch has a greater node_id (its first event's id).
CREATE TABLE history_node (
    namespace_id  TEXT    NOT NULL,
    branch_id     TEXT    NOT NULL,
    node_id       INTEGER NOT NULL,
    next_event_id INTEGER NOT NULL,
    data          BLOB    NOT NULL,
    data_encoding TEXT    NOT NULL DEFAULT 'proto3',
    PRIMARY KEY (namespace_id, branch_id, node_id)
) WITHOUT ROWID;

-- The branches that a run reads, so that deleting one run keeps the events that another shares.
CREATE TABLE forks (
    namespace_id   TEXT    NOT NULL,
    branch_id      TEXT    NOT NULL,
    run_id         TEXT    NOT NULL,
    first_event_id INTEGER NOT NULL,
    next_event_id  INTEGER NOT NULL,
    PRIMARY KEY (namespace_id, branch_id, run_id, first_event_id)
) WITHOUT ROWID;
CREATE INDEX forks_by_run ON forks (namespace_id, run_id);

CREATE TABLE task_queues (
    namespace_id  TEXT    NOT NULL,
    task_queue    TEXT    NOT NULL,
    task_type     INTEGER NOT NULL,
    range_id      INTEGER NOT NULL,
    updated_ns    INTEGER NOT NULL,
    data          BLOB    NOT NULL,
    data_encoding TEXT    NOT NULL DEFAULT 'proto3',
    PRIMARY KEY (namespace_id, task_queue, task_type)
) WITHOUT ROWID;

CREATE TABLE task_queue_pollers (
    namespace_id   TEXT    NOT NULL,
    task_queue     TEXT    NOT NULL,
    task_type      INTEGER NOT NULL,
    identity       TEXT    NOT NULL,
    last_access_ns INTEGER NOT NULL,
    expires_ns     INTEGER NOT NULL,
    data           BLOB    NOT NULL,
    PRIMARY KEY (namespace_id, task_queue, task_type, identity)
) WITHOUT ROWID;
CREATE INDEX task_queue_pollers_by_expiry ON task_queue_pollers (expires_ns);

CREATE TABLE tasks (
    namespace_id       TEXT    NOT NULL,
    task_queue         TEXT    NOT NULL,
    task_type          INTEGER NOT NULL,
    priority           INTEGER NOT NULL,
    task_id            INTEGER NOT NULL,
    workflow_id        TEXT    NOT NULL,
    run_id             TEXT    NOT NULL,
    scheduled_event_id INTEGER NOT NULL,
    stamp              INTEGER NOT NULL,
    created_ns         INTEGER NOT NULL,
    query_id           TEXT    NOT NULL,
    data               BLOB    NOT NULL,
    PRIMARY KEY (namespace_id, task_queue, task_type, priority, task_id)
) WITHOUT ROWID;
CREATE INDEX tasks_by_run ON tasks (run_id);

CREATE TABLE timer_tasks (
    namespace_id TEXT    NOT NULL,
    run_id       TEXT    NOT NULL,
    workflow_id  TEXT    NOT NULL,
    kind         TEXT    NOT NULL,
    fire_at_ns   INTEGER NOT NULL,
    shard_id     INTEGER NOT NULL,
    data         BLOB    NOT NULL,
    PRIMARY KEY (namespace_id, run_id, workflow_id, kind)
) WITHOUT ROWID;
-- Contains every column, so that a scan of due rows reads only the index.
CREATE INDEX timer_tasks_due ON timer_tasks (fire_at_ns, shard_id, data);

CREATE TABLE transfer_tasks (
    shard_id      INTEGER NOT NULL,
    task_id       INTEGER NOT NULL,
    namespace_id  TEXT    NOT NULL,
    workflow_id   TEXT    NOT NULL,
    run_id        TEXT    NOT NULL,
    kind          TEXT    NOT NULL,
    visible_at_ns INTEGER NOT NULL,
    attempt       INTEGER NOT NULL,
    data          BLOB    NOT NULL,
    PRIMARY KEY (shard_id, task_id)
);
CREATE INDEX transfer_tasks_due ON transfer_tasks (visible_at_ns, task_id, shard_id);

CREATE TABLE queries (
    query_id     TEXT    NOT NULL PRIMARY KEY,
    namespace_id TEXT    NOT NULL,
    workflow_id  TEXT    NOT NULL,
    run_id       TEXT    NOT NULL,
    buffered     INTEGER NOT NULL,
    expires_ns   INTEGER NOT NULL,
    request      BLOB    NOT NULL,
    answer       BLOB
);
CREATE INDEX queries_waiting ON queries (run_id, expires_ns) WHERE buffered = 1 AND answer IS NULL;
CREATE INDEX queries_by_expiry ON queries (expires_ns);

CREATE TABLE executions_visibility (
    namespace_id           TEXT    NOT NULL,
    run_id                 TEXT    NOT NULL,
    workflow_id            TEXT    NOT NULL,
    workflow_type_name     TEXT    NOT NULL,
    task_queue             TEXT    NOT NULL,
    status                 INTEGER NOT NULL,
    start_time             INTEGER NOT NULL,
    execution_time         INTEGER NOT NULL,
    close_time             INTEGER,
    execution_duration     INTEGER,
    history_length         INTEGER NOT NULL,
    history_size_bytes     INTEGER NOT NULL,
    state_transition_count INTEGER NOT NULL,
    parent_workflow_id     TEXT,
    parent_run_id          TEXT,
    root_workflow_id       TEXT    NOT NULL,
    root_run_id            TEXT    NOT NULL,
    search_attributes      TEXT    NOT NULL,
    memo                   BLOB    NOT NULL,
    PRIMARY KEY (namespace_id, run_id)
) WITHOUT ROWID;
-- Open runs come first, as if they closed at the end of time. Within each group, the latest come first.
CREATE INDEX executions_visibility_order ON executions_visibility
    (namespace_id, COALESCE(close_time, 9223372036854775807) DESC, start_time DESC, run_id);
CREATE INDEX executions_visibility_by_workflow ON executions_visibility (namespace_id, workflow_id);

CREATE TABLE cluster_membership (
    host_id           TEXT    NOT NULL PRIMARY KEY,
    role              TEXT    NOT NULL,
    rpc_address       TEXT    NOT NULL,
    rpc_port          INTEGER NOT NULL,
    session_start_ns  INTEGER NOT NULL,
    last_heartbeat_ns INTEGER NOT NULL,
    expires_ns        INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE queue (
    queue_name    TEXT    NOT NULL,
    message_id    INTEGER NOT NULL,
    data          BLOB    NOT NULL,
    data_encoding TEXT    NOT NULL DEFAULT 'proto3',
    PRIMARY KEY (queue_name, message_id)
) WITHOUT ROWID;

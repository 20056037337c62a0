-- Where the operations of a Nexus endpoint go. Endpoints belong to the cluster, not to a namespace.
CREATE TABLE nexus_endpoints (
    id            TEXT    NOT NULL PRIMARY KEY,
    name          TEXT    NOT NULL UNIQUE,
    version       INTEGER NOT NULL,
    data          BLOB    NOT NULL,
    data_encoding TEXT    NOT NULL DEFAULT 'proto3'
) WITHOUT ROWID;

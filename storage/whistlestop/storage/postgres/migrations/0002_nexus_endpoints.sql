-- Where the operations of a Nexus endpoint go. Endpoints belong to the cluster, not to a namespace.
CREATE TABLE nexus_endpoints (
    id            TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    name          TEXT COLLATE "C" NOT NULL UNIQUE,
    version       BIGINT NOT NULL,
    data          BYTEA NOT NULL,
    data_encoding TEXT NOT NULL DEFAULT 'proto3'
);

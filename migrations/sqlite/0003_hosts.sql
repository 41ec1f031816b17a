-- The twin of postgres/0003_hosts.sql: change both.
-- Several hosts may share a database (PostgreSQL only). Each has a lease, and each instance an owner that looks for it
-- when it is due. What was there before has the owner nil, a host whose lease has run out long ago.

-- One row. Tells the database apart from others that share its Redis.
CREATE TABLE database_identity (
    id BLOB NOT NULL,
    CONSTRAINT database_identity_pkey PRIMARY KEY (id)
) STRICT;

INSERT INTO database_identity (id) VALUES (randomblob(16));

CREATE TABLE hosts (
    id BLOB NOT NULL,
    started_at INTEGER NOT NULL,
    lease_until INTEGER NOT NULL,
    CONSTRAINT hosts_pkey PRIMARY KEY (id)
) STRICT;

INSERT INTO hosts (id, started_at, lease_until) VALUES (x'00000000000000000000000000000000', 0, 0);

ALTER TABLE workflow_instances ADD COLUMN owner BLOB NOT NULL DEFAULT x'00000000000000000000000000000000';

DROP INDEX idx_workflow_instances_wake_at;
CREATE INDEX idx_workflow_instances_owner_wake_at ON workflow_instances (owner, wake_at, id) WHERE wake_at IS NOT NULL;

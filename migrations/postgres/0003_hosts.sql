-- The twin of sqlite/0003_hosts.sql: change both.
-- Several hosts may share a database (PostgreSQL only). Each has a lease, and each instance an owner that looks for it
-- when it is due. What was there before has the owner nil, a host whose lease has run out long ago.

-- One row. Tells the database apart from others that share its Redis.
CREATE TABLE database_identity (
    id UUID NOT NULL,
    CONSTRAINT database_identity_pkey PRIMARY KEY (id)
);

INSERT INTO database_identity (id) VALUES (gen_random_uuid());

CREATE TABLE hosts (
    id UUID NOT NULL,
    started_at BIGINT NOT NULL,
    lease_until BIGINT NOT NULL,
    CONSTRAINT hosts_pkey PRIMARY KEY (id)
);

INSERT INTO hosts (id, started_at, lease_until) VALUES ('00000000-0000-0000-0000-000000000000', 0, 0);

ALTER TABLE workflow_instances ADD COLUMN owner UUID NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000';

DROP INDEX idx_workflow_instances_wake_at;
CREATE INDEX idx_workflow_instances_owner_wake_at ON workflow_instances (owner, wake_at, id) WHERE wake_at IS NOT NULL;

-- Versions of storage entries, unique over all hosts. Until now they were microseconds since 1970, which stay below.
CREATE SEQUENCE plugin_storage_version START 4000000000000000;

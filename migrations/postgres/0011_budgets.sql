-- The twin of sqlite/0011_budgets.sql: change both.

-- The instance at the top of the chain of creations that led to an instance: NULL for what a client started, and for
-- what was there before.
ALTER TABLE workflow_instances ADD COLUMN root_id UUID;
-- SHA-256 of what was asked for together with the idempotency key. NULL without a key, and for what was there before.
ALTER TABLE workflow_instances ADD COLUMN request_hash BYTEA;

CREATE INDEX idx_workflow_instances_root_id ON workflow_instances (root_id, id) WHERE root_id IS NOT NULL;

-- How many descendants an instance has had, whatever became of them, and since when there may be no more. A row for each
-- root whose chain has created instances, or that was cancelled together with its descendants.
CREATE TABLE instance_trees (
    root_id UUID NOT NULL,
    created BIGINT NOT NULL,
    stopped_at BIGINT,
    CONSTRAINT instance_trees_pkey PRIMARY KEY (root_id)
);

-- Requests with an Idempotency-Key that make something else than instances, whose keys stand in their own rows. The
-- answer is NULL while the request is under way.
CREATE TABLE idempotency_keys (
    team TEXT COLLATE "C" NOT NULL,
    route TEXT COLLATE "C" NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    request_hash BYTEA NOT NULL,
    answer TEXT,
    created_at BIGINT NOT NULL,
    CONSTRAINT idempotency_keys_pkey PRIMARY KEY (team, route, key)
);

CREATE INDEX idx_idempotency_keys_created_at ON idempotency_keys (created_at);

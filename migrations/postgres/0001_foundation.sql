-- The twin of sqlite/0001_foundation.sql: change both.
-- Times are microseconds since 1970 in UTC, ids are 16-byte UUIDs of version 7, JSON is TEXT.
-- Every list is one team's, so the team leads the indexes that serve lists, and the id at their end gives the order.

CREATE TABLE workflows (
    id UUID NOT NULL,
    team TEXT NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    description TEXT NOT NULL,
    status TEXT NOT NULL,
    latest_version BIGINT NOT NULL,
    created_by TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    CONSTRAINT workflows_pkey PRIMARY KEY (id),
    CONSTRAINT workflows_team_name_key UNIQUE (team, name)
);

CREATE INDEX idx_workflows_status ON workflows (team, status);
CREATE INDEX idx_workflows_created_at ON workflows (team, created_at);
CREATE INDEX idx_workflows_status_created ON workflows (team, status, created_at);

CREATE TABLE workflow_versions (
    workflow_id UUID NOT NULL,
    version BIGINT NOT NULL,
    source TEXT NOT NULL,
    created_by TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    CONSTRAINT workflow_versions_pkey PRIMARY KEY (workflow_id, version),
    CONSTRAINT workflow_versions_workflow_id_fkey FOREIGN KEY (workflow_id) REFERENCES workflows (id)
);

CREATE TABLE workflow_instances (
    id UUID NOT NULL,
    team TEXT NOT NULL,
    workflow_id UUID NOT NULL,
    workflow TEXT NOT NULL,
    workflow_version BIGINT NOT NULL,
    pins TEXT NOT NULL,
    entity_type TEXT,
    entity_id TEXT,
    project_id TEXT,
    started_by TEXT NOT NULL,
    status TEXT NOT NULL,
    current_step TEXT,
    version BIGINT NOT NULL,
    input TEXT NOT NULL,
    output TEXT,
    metadata TEXT NOT NULL,
    failure TEXT,
    depth BIGINT NOT NULL,
    idempotency_key TEXT,
    created_at BIGINT NOT NULL,
    started_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    completed_at BIGINT,
    wake_at BIGINT,
    CONSTRAINT workflow_instances_pkey PRIMARY KEY (id),
    CONSTRAINT workflow_instances_workflow_version_fkey
        FOREIGN KEY (workflow_id, workflow_version) REFERENCES workflow_versions (workflow_id, version)
);

CREATE INDEX idx_workflow_instances_team ON workflow_instances (team, id);
CREATE INDEX idx_workflow_instances_workflow_id ON workflow_instances (workflow_id, id);
CREATE INDEX idx_workflow_instances_entity ON workflow_instances (team, entity_type, entity_id, id)
    WHERE entity_type IS NOT NULL;
CREATE INDEX idx_workflow_instances_project_id ON workflow_instances (team, project_id, id)
    WHERE project_id IS NOT NULL;
CREATE INDEX idx_workflow_instances_status ON workflow_instances (team, status, id);
CREATE INDEX idx_workflow_instances_started_by ON workflow_instances (team, started_by, id);
CREATE INDEX idx_workflow_instances_status_created ON workflow_instances (team, status, created_at);
CREATE INDEX idx_workflow_instances_workflow_status ON workflow_instances (workflow_id, status, id);
CREATE INDEX idx_workflow_instances_started_at ON workflow_instances (team, started_at);
CREATE INDEX idx_workflow_instances_wake_at ON workflow_instances (wake_at, id) WHERE wake_at IS NOT NULL;
CREATE UNIQUE INDEX workflow_instances_idempotency_key ON workflow_instances (workflow_id, idempotency_key)
    WHERE idempotency_key IS NOT NULL;

CREATE TABLE step_attempts (
    instance_id UUID NOT NULL,
    step TEXT NOT NULL,
    number BIGINT NOT NULL,
    outcome TEXT NOT NULL,
    plugin TEXT,
    output TEXT,
    failure TEXT,
    started_at BIGINT NOT NULL,
    finished_at BIGINT NOT NULL,
    retry_at BIGINT,
    CONSTRAINT step_attempts_pkey PRIMARY KEY (instance_id, step, number),
    CONSTRAINT step_attempts_instance_id_fkey FOREIGN KEY (instance_id) REFERENCES workflow_instances (id)
);

CREATE TABLE workflow_approvals (
    id UUID NOT NULL,
    team TEXT NOT NULL,
    instance_id UUID NOT NULL,
    workflow TEXT NOT NULL,
    step TEXT NOT NULL,
    approver_id TEXT NOT NULL,
    title TEXT NOT NULL,
    quorum BIGINT NOT NULL,
    status TEXT NOT NULL,
    comment TEXT,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    decided_at BIGINT,
    CONSTRAINT workflow_approvals_pkey PRIMARY KEY (id),
    CONSTRAINT workflow_approvals_instance_id_fkey FOREIGN KEY (instance_id) REFERENCES workflow_instances (id)
);

CREATE INDEX idx_workflow_approvals_instance_id ON workflow_approvals (instance_id, id);
CREATE INDEX idx_workflow_approvals_approver_id ON workflow_approvals (team, approver_id, id);
CREATE INDEX idx_workflow_approvals_status ON workflow_approvals (team, status, id);
CREATE INDEX idx_workflow_approvals_approver_status ON workflow_approvals (team, approver_id, status, id);
CREATE INDEX idx_workflow_approvals_instance_step ON workflow_approvals (instance_id, step);
CREATE INDEX idx_workflow_approvals_expires_at ON workflow_approvals (expires_at);
CREATE INDEX idx_workflow_approvals_status_expires ON workflow_approvals (status, expires_at);
CREATE INDEX idx_workflow_approvals_created_at ON workflow_approvals (team, created_at);
CREATE INDEX idx_workflow_approvals_approver_status_created
    ON workflow_approvals (team, approver_id, status, created_at);

CREATE TABLE plugin_versions (
    id UUID NOT NULL,
    team TEXT NOT NULL,
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    digest TEXT NOT NULL,
    component_bytes BIGINT NOT NULL,
    manifest TEXT NOT NULL,
    grants TEXT NOT NULL,
    uploaded_by TEXT NOT NULL,
    uploaded_at BIGINT NOT NULL,
    CONSTRAINT plugin_versions_pkey PRIMARY KEY (id),
    CONSTRAINT plugin_versions_team_name_version_key UNIQUE (team, name, version)
);

CREATE INDEX idx_plugin_versions_team ON plugin_versions (team, id);
CREATE INDEX idx_plugin_versions_team_name ON plugin_versions (team, name, id);

-- The components themselves stand apart, so that no list ever reads one.
CREATE TABLE plugin_components (
    plugin_version_id UUID NOT NULL,
    bytes BYTEA NOT NULL,
    CONSTRAINT plugin_components_pkey PRIMARY KEY (plugin_version_id),
    CONSTRAINT plugin_components_plugin_version_id_fkey
        FOREIGN KEY (plugin_version_id) REFERENCES plugin_versions (id)
);

-- Keys are listed in the order of their bytes, whatever the database's own collation.
CREATE TABLE plugin_storage (
    team TEXT NOT NULL,
    space TEXT NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    value BYTEA NOT NULL,
    version BIGINT NOT NULL,
    expires_at BIGINT,
    CONSTRAINT plugin_storage_pkey PRIMARY KEY (team, space, key)
);

CREATE INDEX idx_plugin_storage_expires_at ON plugin_storage (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE tokens (
    id UUID NOT NULL,
    hash BYTEA NOT NULL,
    team TEXT NOT NULL,
    user_id TEXT NOT NULL,
    permissions TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    CONSTRAINT tokens_pkey PRIMARY KEY (id),
    CONSTRAINT tokens_hash_key UNIQUE (hash)
);

CREATE INDEX idx_tokens_team ON tokens (team, id);

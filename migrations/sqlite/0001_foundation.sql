-- The twin of postgres/0001_foundation.sql: change both.
-- Times are microseconds since 1970 in UTC, ids are 16-byte UUIDs of version 7, JSON is TEXT.
-- Every list is one team's, so the team leads the indexes that serve lists, and the id at their end gives the order.
-- WITHOUT ROWID only where rows are small: rows with JSON or values would make the key's tree slow.

CREATE TABLE workflows (
    id BLOB NOT NULL,
    team TEXT NOT NULL,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    status TEXT NOT NULL,
    latest_version INTEGER NOT NULL,
    created_by TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    CONSTRAINT workflows_pkey PRIMARY KEY (id),
    CONSTRAINT workflows_team_name_key UNIQUE (team, name)
) STRICT;

CREATE INDEX idx_workflows_status ON workflows (team, status);
CREATE INDEX idx_workflows_created_at ON workflows (team, created_at);
CREATE INDEX idx_workflows_status_created ON workflows (team, status, created_at);

CREATE TABLE workflow_versions (
    workflow_id BLOB NOT NULL,
    version INTEGER NOT NULL,
    source TEXT NOT NULL,
    created_by TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    CONSTRAINT workflow_versions_pkey PRIMARY KEY (workflow_id, version),
    CONSTRAINT workflow_versions_workflow_id_fkey FOREIGN KEY (workflow_id) REFERENCES workflows (id)
) STRICT;

CREATE TABLE workflow_instances (
    id BLOB NOT NULL,
    team TEXT NOT NULL,
    workflow_id BLOB NOT NULL,
    workflow TEXT NOT NULL,
    workflow_version INTEGER NOT NULL,
    pins TEXT NOT NULL,
    entity_type TEXT,
    entity_id TEXT,
    project_id TEXT,
    started_by TEXT NOT NULL,
    status TEXT NOT NULL,
    current_step TEXT,
    version INTEGER NOT NULL,
    input TEXT NOT NULL,
    output TEXT,
    metadata TEXT NOT NULL,
    failure TEXT,
    depth INTEGER NOT NULL,
    idempotency_key TEXT,
    created_at INTEGER NOT NULL,
    started_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    completed_at INTEGER,
    wake_at INTEGER,
    CONSTRAINT workflow_instances_pkey PRIMARY KEY (id),
    CONSTRAINT workflow_instances_workflow_version_fkey
        FOREIGN KEY (workflow_id, workflow_version) REFERENCES workflow_versions (workflow_id, version)
) STRICT;

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
    instance_id BLOB NOT NULL,
    step TEXT NOT NULL,
    number INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    plugin TEXT,
    output TEXT,
    failure TEXT,
    started_at INTEGER NOT NULL,
    finished_at INTEGER NOT NULL,
    retry_at INTEGER,
    CONSTRAINT step_attempts_pkey PRIMARY KEY (instance_id, step, number),
    CONSTRAINT step_attempts_instance_id_fkey FOREIGN KEY (instance_id) REFERENCES workflow_instances (id)
) STRICT;

CREATE TABLE workflow_approvals (
    id BLOB NOT NULL,
    team TEXT NOT NULL,
    instance_id BLOB NOT NULL,
    workflow TEXT NOT NULL,
    step TEXT NOT NULL,
    approver_id TEXT NOT NULL,
    title TEXT NOT NULL,
    quorum INTEGER NOT NULL,
    status TEXT NOT NULL,
    comment TEXT,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    decided_at INTEGER,
    CONSTRAINT workflow_approvals_pkey PRIMARY KEY (id),
    CONSTRAINT workflow_approvals_instance_id_fkey FOREIGN KEY (instance_id) REFERENCES workflow_instances (id)
) STRICT;

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
    id BLOB NOT NULL,
    team TEXT NOT NULL,
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    digest TEXT NOT NULL,
    component_bytes INTEGER NOT NULL,
    manifest TEXT NOT NULL,
    grants TEXT NOT NULL,
    uploaded_by TEXT NOT NULL,
    uploaded_at INTEGER NOT NULL,
    CONSTRAINT plugin_versions_pkey PRIMARY KEY (id),
    CONSTRAINT plugin_versions_team_name_version_key UNIQUE (team, name, version)
) STRICT;

CREATE INDEX idx_plugin_versions_team ON plugin_versions (team, id);
CREATE INDEX idx_plugin_versions_team_name ON plugin_versions (team, name, id);

-- The components themselves stand apart, so that no list ever reads one.
CREATE TABLE plugin_components (
    plugin_version_id BLOB NOT NULL,
    bytes BLOB NOT NULL,
    CONSTRAINT plugin_components_pkey PRIMARY KEY (plugin_version_id),
    CONSTRAINT plugin_components_plugin_version_id_fkey
        FOREIGN KEY (plugin_version_id) REFERENCES plugin_versions (id)
) STRICT;

CREATE TABLE plugin_storage (
    team TEXT NOT NULL,
    space TEXT NOT NULL,
    key TEXT NOT NULL,
    value BLOB NOT NULL,
    version INTEGER NOT NULL,
    expires_at INTEGER,
    CONSTRAINT plugin_storage_pkey PRIMARY KEY (team, space, key)
) STRICT;

CREATE INDEX idx_plugin_storage_expires_at ON plugin_storage (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE tokens (
    id BLOB NOT NULL,
    hash BLOB NOT NULL,
    team TEXT NOT NULL,
    user_id TEXT NOT NULL,
    permissions TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    CONSTRAINT tokens_pkey PRIMARY KEY (id),
    CONSTRAINT tokens_hash_key UNIQUE (hash)
) STRICT, WITHOUT ROWID;

CREATE INDEX idx_tokens_team ON tokens (team, id);

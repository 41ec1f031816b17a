-- The twin of postgres/0002_retention.sql: change both.
-- Finished instances are deleted by the time they ended, a team at a time; and lists by time are paged by key, so their
-- indexes end in the key that decides between equal times.

CREATE INDEX idx_workflow_instances_completed_at ON workflow_instances (team, completed_at, id)
    WHERE completed_at IS NOT NULL;

DROP INDEX idx_workflows_status;
DROP INDEX idx_workflows_created_at;
DROP INDEX idx_workflows_status_created;
CREATE INDEX idx_workflows_status ON workflows (team, status, name);
CREATE INDEX idx_workflows_created_at ON workflows (team, created_at, name);
CREATE INDEX idx_workflows_status_created ON workflows (team, status, created_at, name);

-- The list without a filter is by time of creation too, so that it and a list of a period share one index.
DROP INDEX idx_workflow_instances_team;
DROP INDEX idx_workflow_instances_status_created;
DROP INDEX idx_workflow_instances_started_at;
CREATE INDEX idx_workflow_instances_created_at ON workflow_instances (team, created_at, id);
CREATE INDEX idx_workflow_instances_status_created ON workflow_instances (team, status, created_at, id);
CREATE INDEX idx_workflow_instances_started_at ON workflow_instances (team, started_at, id);

-- Approvals expire when their instance wakes, so nobody asks for those of all teams.
DROP INDEX idx_workflow_approvals_instance_step;
DROP INDEX idx_workflow_approvals_expires_at;
DROP INDEX idx_workflow_approvals_status_expires;
DROP INDEX idx_workflow_approvals_created_at;
DROP INDEX idx_workflow_approvals_approver_status_created;
CREATE INDEX idx_workflow_approvals_instance_step ON workflow_approvals (instance_id, step, id);
CREATE INDEX idx_workflow_approvals_expires_at ON workflow_approvals (team, expires_at, id);
CREATE INDEX idx_workflow_approvals_status_expires ON workflow_approvals (team, status, expires_at, id);
CREATE INDEX idx_workflow_approvals_created_at ON workflow_approvals (team, created_at, id);
CREATE INDEX idx_workflow_approvals_approver_status_created
    ON workflow_approvals (team, approver_id, status, created_at, id);

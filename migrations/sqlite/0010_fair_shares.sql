-- The twin of postgres/0010_fair_shares.sql: change both.

-- The engine asks for what is due team by team, so that one team's backlog hides nobody else's instances.
DROP INDEX idx_workflow_instances_owner_wake_at;
CREATE INDEX idx_workflow_instances_owner_team_wake_at ON workflow_instances (owner, team, wake_at, id)
    WHERE wake_at IS NOT NULL;

-- How many crashes of its host in a row happened while the instance was driven, and since when it is therefore in
-- quarantine. Every commit of an instance that is not sets the number back to 0.
ALTER TABLE workflow_instances ADD COLUMN crashes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE workflow_instances ADD COLUMN quarantined_at INTEGER;
CREATE INDEX idx_workflow_instances_quarantined ON workflow_instances (team, id) WHERE quarantined_at IS NOT NULL;

-- The instances that the host was driving when it last renewed its lease: ids with commas between.
ALTER TABLE hosts ADD COLUMN in_hand TEXT NOT NULL DEFAULT '';

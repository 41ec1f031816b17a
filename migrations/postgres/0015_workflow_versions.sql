-- The twin of sqlite/0015_workflow_versions.sql: change both.

-- The number of versions of each team's workflows, for a quota. The versions that exist already
-- belong to the host nil.
ALTER TABLE team_usage ADD COLUMN workflow_versions BIGINT NOT NULL DEFAULT 0;

INSERT INTO team_usage (team, host, unfinished, stored_bytes, workflow_versions)
SELECT workflows.team, '00000000-0000-0000-0000-000000000000', 0, 0, COUNT(*)
FROM workflow_versions JOIN workflows ON workflows.id = workflow_versions.workflow_id
GROUP BY workflows.team
ON CONFLICT (team, host) DO UPDATE SET workflow_versions = excluded.workflow_versions;

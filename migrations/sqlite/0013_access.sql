-- The twin of postgres/0013_access.sql: change both.
-- The rules that a version of a workflow was applied under: 1, whoever starts an instance may approve it; 2, only where
-- the definition says so. What is there keeps its meaning.
ALTER TABLE workflow_versions ADD COLUMN rules INTEGER NOT NULL DEFAULT 1;

-- Where a request came from, and its id, which does not repeat as the number in request_id does.
ALTER TABLE audit ADD COLUMN source TEXT NOT NULL DEFAULT '';
ALTER TABLE audit ADD COLUMN request TEXT NOT NULL DEFAULT '';
-- What an entry competes with for a place among its team's: entries of the same action; of refused and failed requests,
-- which cost nothing to make, all that are such.
ALTER TABLE audit ADD COLUMN class TEXT NOT NULL DEFAULT '';
UPDATE audit SET class = CASE WHEN outcome IN ('failed', 'refused') THEN 'cheap' ELSE action END;
CREATE INDEX idx_audit_team_class_at ON audit (team, class, at, id);

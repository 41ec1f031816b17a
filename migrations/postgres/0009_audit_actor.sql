-- The twin of sqlite/0009_audit_actor.sql: change both.
-- Somebody who has done little among 100,000 entries of a team, or among those of all teams.
CREATE INDEX idx_audit_actor_team_at ON audit (actor, team, at, id);
CREATE INDEX idx_audit_actor_at ON audit (actor, at, id);

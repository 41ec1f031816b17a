-- The twin of postgres/0006_audit.sql: change both.
-- What the host itself is about has the team '', which is no team's name. So has what concerns every team.
CREATE TABLE audit (
    id BLOB NOT NULL,
    at INTEGER NOT NULL,
    team TEXT NOT NULL,
    actor TEXT NOT NULL,
    actor_team TEXT NOT NULL,
    actor_token BLOB,
    action TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail TEXT NOT NULL,
    outcome TEXT NOT NULL,
    request_id INTEGER NOT NULL,
    CONSTRAINT audit_pkey PRIMARY KEY (id)
) STRICT;

CREATE INDEX idx_audit_team_at ON audit (team, at, id);
CREATE INDEX idx_audit_at ON audit (at, id);

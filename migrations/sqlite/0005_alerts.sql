-- The twin of postgres/0005_alerts.sql: change both.
-- What the host itself is about has the team '', which is no team's name. So has a silence of everything.

-- One active row for each team, rule and subject, whichever host sees it first; that host looks after it.
CREATE TABLE alerts (
    id BLOB NOT NULL,
    host BLOB NOT NULL,
    team TEXT NOT NULL,
    rule TEXT NOT NULL,
    subject TEXT NOT NULL,
    severity TEXT NOT NULL,
    state TEXT NOT NULL,
    since INTEGER NOT NULL,
    held_since INTEGER,
    fired_at INTEGER,
    resolved_at INTEGER,
    reading TEXT NOT NULL,
    acknowledged_by TEXT,
    acknowledged_at INTEGER,
    acknowledged_comment TEXT,
    told TEXT NOT NULL,
    told_at INTEGER,
    CONSTRAINT alerts_pkey PRIMARY KEY (id)
) STRICT;

CREATE UNIQUE INDEX idx_alerts_active ON alerts (team, rule, subject) WHERE state <> 'resolved';
CREATE INDEX idx_alerts_resolved ON alerts (team, id) WHERE state = 'resolved';
CREATE INDEX idx_alerts_resolved_at ON alerts (resolved_at) WHERE state = 'resolved';
CREATE INDEX idx_alerts_untold ON alerts (id) WHERE state = 'resolved' AND told = 'firing';

CREATE TABLE alert_silences (
    id BLOB NOT NULL,
    team TEXT NOT NULL,
    rule TEXT,
    subject TEXT,
    comment TEXT NOT NULL,
    created_by TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    until INTEGER NOT NULL,
    CONSTRAINT alert_silences_pkey PRIMARY KEY (id)
) STRICT;

CREATE INDEX idx_alert_silences_until ON alert_silences (until, id);

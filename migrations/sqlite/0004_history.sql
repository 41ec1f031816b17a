-- The twin of postgres/0004_history.sql: change both.
-- The monitor's numbers over time. A point is what one host counted within one step of 10, 60 or 3,600 seconds; the
-- points of several hosts add up. It is written again, as a whole, whenever more has been counted.

-- What is counted. The id is made of the other columns, so that a writer need not look it up. The team is empty for
-- numbers of the host itself.
CREATE TABLE history_series (
    id BLOB NOT NULL,
    team TEXT NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    CONSTRAINT history_series_pkey PRIMARY KEY (id)
) STRICT;

CREATE UNIQUE INDEX idx_history_series_team_kind_name ON history_series (team, kind, name);
CREATE INDEX idx_history_series_kind_name ON history_series (kind, name);

-- No foreign key: whoever deletes a series that has no points must not meet whoever writes its next one. Each write
-- says what its series are.
CREATE TABLE history_points (
    series_id BLOB NOT NULL,
    step INTEGER NOT NULL,
    at INTEGER NOT NULL,
    host BLOB NOT NULL,
    value INTEGER NOT NULL,
    samples INTEGER NOT NULL,
    timings BLOB NOT NULL
) STRICT;

CREATE UNIQUE INDEX idx_history_points_series_step_at ON history_points (series_id, step, at, host);
CREATE INDEX idx_history_points_step_at ON history_points (step, at);

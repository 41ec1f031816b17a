-- The twin of sqlite/0004_history.sql: change both.
-- The monitor's numbers over time. A point is what one host counted within one step of 10, 60 or 3,600 seconds; the
-- points of several hosts add up. It is written again, as a whole, whenever more has been counted.

-- What is counted. The id is made of the other columns, so that a writer need not look it up. The team is empty for
-- numbers of the host itself.
CREATE TABLE history_series (
    id UUID NOT NULL,
    team TEXT COLLATE "C" NOT NULL,
    kind TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    CONSTRAINT history_series_pkey PRIMARY KEY (id)
);

CREATE UNIQUE INDEX idx_history_series_team_kind_name ON history_series (team, kind, name);
CREATE INDEX idx_history_series_kind_name ON history_series (kind, name);

-- No foreign key: whoever deletes a series that has no points must not meet whoever writes its next one. Each write
-- says what its series are.
CREATE TABLE history_points (
    series_id UUID NOT NULL,
    step BIGINT NOT NULL,
    at BIGINT NOT NULL,
    host UUID NOT NULL,
    value BIGINT NOT NULL,
    samples BIGINT NOT NULL,
    timings BYTEA NOT NULL
);

CREATE UNIQUE INDEX idx_history_points_series_step_at ON history_points (series_id, step, at, host);
CREATE INDEX idx_history_points_step_at ON history_points (step, at);

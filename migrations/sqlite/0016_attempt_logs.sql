-- The twin of postgres/0016_attempt_logs.sql: change both.

-- The log lines of attempts that wrote any: one row an attempt. The lines are a JSON list.
CREATE TABLE attempt_logs (
    instance_id BLOB NOT NULL,
    finished_at INTEGER NOT NULL,
    step TEXT NOT NULL,
    number INTEGER NOT NULL,
    dropped INTEGER NOT NULL,
    lines TEXT NOT NULL,
    CONSTRAINT attempt_logs_pkey PRIMARY KEY (instance_id, finished_at, step, number),
    CONSTRAINT attempt_logs_instance_id_fkey FOREIGN KEY (instance_id) REFERENCES workflow_instances (id)
) STRICT;

-- Old lines are deleted before their instances.
CREATE INDEX idx_attempt_logs_finished_at ON attempt_logs (finished_at);

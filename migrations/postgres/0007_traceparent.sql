-- The twin of sqlite/0007_traceparent.sql: change both.

-- W3C's traceparent of the span that created the instance, if it is recorded: what happens later belongs to its trace.
ALTER TABLE workflow_instances ADD COLUMN traceparent TEXT;

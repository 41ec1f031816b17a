-- The twin of postgres/0017_children.sql: change both.

-- The step that has started an instance, and whether it waits for the end (1) or not (0).
ALTER TABLE workflow_instances ADD COLUMN parent_id BLOB;
ALTER TABLE workflow_instances ADD COLUMN parent_step TEXT;
ALTER TABLE workflow_instances ADD COLUMN parent_waits INTEGER NOT NULL DEFAULT 0;
-- The number of awaited children that have ended. A commit states the number that it has seen; if there are more by
-- then, the instance stays due.
ALTER TABLE workflow_instances ADD COLUMN children_ended INTEGER NOT NULL DEFAULT 0;
-- Since when the step that waited for the instance waits no more. The driver then cancels the instance, if it has not ended.
ALTER TABLE workflow_instances ADD COLUMN cancel_requested_at INTEGER;
CREATE INDEX idx_workflow_instances_parent_id ON workflow_instances (parent_id, id) WHERE parent_id IS NOT NULL;

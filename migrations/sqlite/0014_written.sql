-- The twin of postgres/0014_written.sql: change both.

-- The text of a definition as it was applied, comments included; at most 256 KiB. NULL for versions
-- that an earlier release applied.
ALTER TABLE workflow_versions ADD COLUMN written TEXT;

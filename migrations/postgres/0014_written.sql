-- The twin of sqlite/0014_written.sql: change both.

-- A definition's text as it was applied, comments included; at most 256 KiB. Versions from before have none.
ALTER TABLE workflow_versions ADD COLUMN written TEXT;

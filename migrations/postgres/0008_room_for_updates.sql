-- The twin of sqlite/0008_room_for_updates.sql: change both.

-- An instance is written again after each of its steps, and most steps change no column that an index has. PostgreSQL
-- then leaves the indexes alone, all twelve of them, if the new row fits on the page of the old one; and those that
-- were created together take their steps together, so there must be room for all rows of a page once more.
ALTER TABLE workflow_instances SET (fillfactor = 50);

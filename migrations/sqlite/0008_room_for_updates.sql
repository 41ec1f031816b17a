-- The twin of postgres/0008_room_for_updates.sql: change both.

-- PostgreSQL keeps room on its pages for rows that are written again. SQLite writes them in place.

-- SQLite tells of changes by itself: PRAGMA data_version.
SELECT 1;

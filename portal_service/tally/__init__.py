"""The tally: sums of the request log, in a small SQLite file beside it.

It costs nothing when a record is written. The tally reads the request log itself, and commits sums and read positions
in one transaction: so it matches the log after any crash, whichever gateway wrote it.

- `counting`  lines of the request log -> sums: pure
- `usage_db`  the SQLite file: sums, and how far each log file is read
- `follow`    reads new lines of the log
- `usage`     a caller's sums by day
- `live`      data for operators: traffic, models, users, errors
"""

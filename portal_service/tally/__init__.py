"""The tally: what the request log adds up to, kept in a small SQLite file beside it.

Nothing is added on the path of a record. The tally reads the request log itself, and remembers in one transaction what
it has added and how far it has read: so it is what the log says, whoever wrote the log, and whoever died when.

- `counting`  lines of the request log -> sums: pure
- `usage_db`  the SQLite file: sums, and how far each log file is read
- `follow`    keeps it up with the log
- `usage`     a caller's sums by day
- `live`      what operators look at: traffic, models, users, errors
"""

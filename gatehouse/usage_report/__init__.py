"""Who used what: sums over the request logs, by DuckDB.

`question` holds the options of a report, `sql` turns them into statements, `run` runs these over the files that
`log_files` finds; `terminal` and `export` print the result.
"""

"""Who used what: sums over the request logs, by DuckDB.

`question` says what is asked, `sql` turns it into statements, `reading` runs them over the files that `log_files`
finds, and `shown`, `chart` and `written` are what becomes of the answer.
"""

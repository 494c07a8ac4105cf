"""Envoy's request log, as the services rely on it: its file, the interval of its entries, what it leaves out."""

FILE_NAME = "envoy_access.log"
"""In `logging.dir`. Once a day it is renamed to that day: `envoy_access_2026-11-01.log`."""
DAILY_STEM = "envoy_access"

PERIOD_S = 5
"""A longer stream also writes an entry each such interval, which keeps its leases alive."""

STRANGERS_LOGGED = "gatehouse.strangers_logged"
"""Runtime key: the percentage of rejected unknown callers that are logged to the file. accesslog_service lowers it
while there are too many."""

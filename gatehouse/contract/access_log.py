"""Envoy's log of requests, as the services rely on it: where it stands, how often it speaks, what it leaves out."""

FILE_NAME = "envoy_access.log"
"""In `logging.dir`. Once a day it is renamed to that day: `envoy_access_2026-11-01.log`."""
DAILY_STEM = "envoy_access"

PERIOD_S = 5
"""A stream that runs longer than this also reports midway, again and again: a sign of life for its leases."""

STRANGERS_LOGGED = "gatehouse.strangers_logged"
"""Runtime key: the percentage of refusals of unknown callers that get into the file. accesslog_service lowers it while
there are too many."""

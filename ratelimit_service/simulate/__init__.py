"""Recorded requests against other limits: `python -m ratelimit_service.simulate`.

`logged` says what the log knows of a request, `replay` asks the limiter's own specification about it, `tally` sums up.
"""

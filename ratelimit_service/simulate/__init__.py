"""Replays recorded requests against other limits: `python -m ratelimit_service.simulate`.

`logged` is a record of the log, `replay` asks the limiter's executable specification about it, `tally` sums up.
"""

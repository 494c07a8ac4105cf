"""Estimates the tokens of a request before it runs: from what it asks for, and from how long answers usually are."""

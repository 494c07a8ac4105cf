"""Stores of counters: the port, the algorithms, memory, Redis, and the fallback while Redis is unavailable."""

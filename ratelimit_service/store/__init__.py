"""Stores of counters: the port, the algorithms, memory, Redis, and what decides while Redis is away."""

"""Clients for the Redis that a URL names, and what that Redis says of itself."""

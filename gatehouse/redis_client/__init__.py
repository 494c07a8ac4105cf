"""Clients for the Redis that a URL names, and checks of its INFO."""

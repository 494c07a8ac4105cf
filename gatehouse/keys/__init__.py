"""API keys: their format, their records, and where records are stored; only ever as digests."""

"""The Envoy process, seen from Python: the binary, its files, its admin interface."""

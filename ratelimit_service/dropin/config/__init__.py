"""The configuration files of envoyproxy/ratelimit: read, parsed, checked, and read again when they change."""

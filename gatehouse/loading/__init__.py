"""From files to a complete configuration: read, check as a whole, with its keys, and reload when files change."""

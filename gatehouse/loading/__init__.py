"""From files to a complete configuration: read, checked as a whole, with its keys, and followed when files change."""

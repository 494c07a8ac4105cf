"""What an API key is, and how one is kept: only ever as a digest."""

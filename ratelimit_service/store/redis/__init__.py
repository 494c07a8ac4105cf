"""The store in Redis: Lua scripts, their calls, and one pipelined connection to each server."""

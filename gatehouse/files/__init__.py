"""Files and directories: atomic writes, daily files and their retention, permissions, watching for changes."""

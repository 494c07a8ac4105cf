"""What every long-running process does: logging, signals, supervision, forking of workers, systemd."""

"""Grafana's dashboards, described in `described` and written to `deploy/grafana/dashboards`: `make dashboards`."""

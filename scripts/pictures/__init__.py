"""The README's pictures, taken anew: `make pictures`. A real gateway in use, a real browser, a real Prometheus."""

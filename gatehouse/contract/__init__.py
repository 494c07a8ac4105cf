"""What Envoy's configuration and the services share: names, fields, errors, key digests. Imports no other package."""

"""What Envoy's configuration and the services both say: names, fields, errors, key digests. Imports no other room."""

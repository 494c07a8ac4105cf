"""The running gateway: Envoy and the services, started, reloaded, handed over and stopped."""

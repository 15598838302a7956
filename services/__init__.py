"""The services. Each is a room of its own: no service imports another."""

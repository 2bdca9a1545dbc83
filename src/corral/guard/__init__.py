"""The live door: authenticates, limits, validates, queues, relays and records each request."""

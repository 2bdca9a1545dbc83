"""Traces of requests by OpenTelemetry: chosen as requests come, built from their records once they have ended."""

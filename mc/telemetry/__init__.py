"""Telemetry: events, their schema, and their export over OTLP."""

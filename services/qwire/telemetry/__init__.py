"""Telemetry: traces, metrics and logs, and the one place where their names are defined."""

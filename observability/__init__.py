"""Observability: facts in, telemetry out; imports the product, is never imported by it."""

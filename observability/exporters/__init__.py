"""The doors by which telemetry leaves."""

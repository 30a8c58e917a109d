"""The public conformance suites against a real cluster: `make conformance`."""

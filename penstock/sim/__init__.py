"""A simulated model server: vLLM's HTTP API and metrics over a model of its scheduler, for tests, demos and benchmarks."""

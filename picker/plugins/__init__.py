"""The plugins of llm-d's EndpointPickerConfig, under its names: a table per kind, each entry a function that reads parameters."""

"""The console: a live page that says what the gateway does now, served beside /metrics. Three files, no build step, nothing from outside."""

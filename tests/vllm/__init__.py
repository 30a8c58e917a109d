"""Penstock in front of real vLLM servers on this machine's CPU: `make test-vllm`. What it needs and what it showed: docs/vllm.md."""

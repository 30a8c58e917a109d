"""Shared by the tests of the xDS server."""

import asyncio

# Without this, pytest-asyncio's first look at "the current loop" makes one that nobody closes, and warnings are errors.
asyncio.set_event_loop(None)

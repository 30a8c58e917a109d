"""How long things take in the simulated server.

The model, and the default figures, are those that the peers' policies were measured with (reference: routing quality under
skew): 10 ms + 0.2 ms a prompt token that is not cached, 10 ms an output token, both up to 3 times slower when every slot is
taken. A real vLLM on a small CPU model is close to it in shape: 14 ms for 192 tokens, 81 ms for 2200, 282 ms for 6600, and
29 ms where the prefix is cached; decoding slows down with the batch. Prefills do not slow each other except through the batch.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds, as on the command line; the methods give seconds. `slots` is the size of the largest batch."""

    overhead_ms: float = 10.0  # of a request, before its first token
    prefill_ms_per_token: float = 0.2
    decode_ms: float = 10.0  # of one step of an almost empty batch: a token for each request in it
    prefill_slowdown: float = 2.0  # added, as a factor, when the batch is full
    decode_slowdown: float = 2.0
    lora_ms: float = 50.0  # to load an adapter into a slot
    jitter: float = 0.0  # each time is multiplied by 1 +- this

    def prefill(self, uncached_tokens: int, running: int, slots: int) -> float:
        """Seconds until the first token of a request that makes the batch `running` large."""
        full = self.overhead_ms + uncached_tokens * self.prefill_ms_per_token
        return full * (1.0 + self.prefill_slowdown * running / slots) / 1000.0

    def step(self, running: int, slots: int) -> float:
        """Seconds of one decode step."""
        return self.decode_ms * (1.0 + self.decode_slowdown * running / slots) / 1000.0

"""What recording costs: a streamed request (one Decision, one Outcome with every figure known) told to the Recorder and the
collecting of spans. As by default one request of 20 is traced: it has exemplars and spans; a line says what a traced one costs,
another what is paid in a `penstock run` without options, where nobody collects spans.

Run: python benchmarks/record.py [requests]. The last line is JSON. By default each of the 10 series gets as many requests as are put
into buckets at once, so that this is paid for in every round.
"""

import gc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from opentelemetry.sdk.resources import Resource

from observability import catalogue as c
from observability.exporters.prometheus import text
from observability.exporters.spans import Spans
from observability.hub import Hub
from observability.record import Recorder
from observability.registry import Registry
from observability.series import FOLD
from penstock.gateway import Gateway
from penstock.settings import Settings
from picker.facts import Decision, Outcome
from picker.trace import NO_TRACE, Tracing

MODELS = tuple(f"model-{n}" for n in range(10))


def requests(count: int, traced: int = 20) -> list[tuple[Decision, Outcome]]:
    """Every `traced`-th has a trace."""
    made = []
    tracing = Tracing(1.0)
    for n in range(count):
        model, endpoint, tokens = MODELS[n % 10], f"10.0.0.{n % 16}:8000", 100 + n % 300
        common = ("ns/pool", model, model, "chat", n % 10 % 3, "tenant", True)
        size, seconds = 900 + n % 5000, 0.0002 + n % 7 / 1e4
        trace = NO_TRACE if n % traced else tracing.of(f"id-{n}", {})
        decided = (16, 800, 16 * (n % 50), size, seconds)
        decision = Decision(f"id-{n}", 1.0, *common, (endpoint,), *decided, trace=trace)
        figures = {"duration": 0.4 + tokens / 50, "ttft": 0.1 + n % 40 / 50, "queue": 0.0003}
        usage = {"input_tokens": 812, "cached_tokens": 640, "output_tokens": tokens, "predicted_cached_tokens": 600}
        sizes = {
            "request_bytes": size,
            "response_bytes": 40 * tokens,
            "schedule": 0.0002,
            "received": 0.001,
            "sent": 0.004,
            "trace": trace,
        }
        made.append((decision, Outcome(f"id-{n}", 1.0, *common, 200, "", endpoint, **figures, **usage, **sizes)))
    return made


def best(run: Callable[[], int], rounds: int = 40) -> float:
    """CPU seconds per operation: the best of several rounds, for other programs share the machine and its caches."""
    found = []
    for _ in range(rounds):
        gc.collect()
        gc.disable()
        start = time.thread_time()
        count = run()
        found.append((time.thread_time() - start) / count)
        gc.enable()
    return min(found)


def main(count: int) -> None:
    registry, hub = Registry(), Hub()
    Recorder(registry, models=MODELS).listen(hub)
    out: Any = None  # nothing is sent here: the exporter's work is not the event loop's
    spans = Spans(out, Resource({}), registry, capacity=count)
    spans.listen(hub)
    gateway = Gateway(Settings(), Path("nowhere"))
    sampled, every = requests(count), requests(count, traced=1)

    def record(facts: list[tuple[Decision, Outcome]], tell: Callable[[object], None] = hub.tell) -> int:
        while spans.take():
            pass  # as the exporter does
        for decision, outcome in facts:
            tell(decision)
            tell(outcome)
        return len(facts)

    counter = registry.counter(c.XDS_PUSHES_TOTAL).bind(type_url="cds").inc
    histogram = registry.histogram(c.LOOP_LAG_SECONDS).bind().observe

    def count_up() -> int:
        for _ in range(count):
            counter()
        return count

    def observe_one() -> int:
        for _ in range(count):
            histogram(0.003)
        return count

    us, traced = best(lambda: record(sampled)) * 1e6, best(lambda: record(every)) * 1e6
    run = best(lambda: record(sampled, gateway.facts.tell)) * 1e6
    start = time.perf_counter()
    page = text(registry.snapshot())
    rendered = (time.perf_counter() - start) * 1e3
    print(f"counter.inc          {best(count_up) * 1e6:8.3f} us")
    print(f"histogram.observe    {best(observe_one) * 1e6:8.3f} us")
    print(f"snapshot and render  {rendered:8.1f} ms  ({len(page) / 1024:.0f} KiB)")
    print(f"in penstock run      {run:8.3f} us")
    print(f"a traced request     {traced:8.3f} us")
    print(f"a request            {us:8.3f} us  (one decision and one outcome; one of 20 is traced)")
    print(json.dumps({"us_per_request": round(us, 3)}))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else len(MODELS) * FOLD)

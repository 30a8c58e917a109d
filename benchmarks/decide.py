"""What a decision costs: microseconds of CPU a request, from the protobuf bytes of Envoy's messages to those of the reply.

As `penstock run` has it, one decision in a hundred is recorded, and streams are asked for their usage (Envoy writes that into large
bodies, and the picker into small ones); one row is what it costs where each one is recorded. The last but one is a pool that is
full: the request joins those that wait, a slot becomes free, and the one whose turn it is is picked for. Figures are medians of
batches, as others may use the machine too; what reading the same JSON takes by itself tells how fast it is.

Run: python benchmarks/decide.py
"""

import json
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from statistics import median

import orjson
from envoy.extensions.filters.http.ext_proc.v3 import processing_mode_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2

from picker.ask import Ask
from picker.facts import Decision
from picker.kv_messages import Batch, Stored
from picker.latency import Speed
from picker.load import Load
from picker.picker import Picker
from picker.precise import Unlinked
from picker.prefix import hash_blocks
from picker.record import DecisionRecord, Why
from picker.request import parse
from picker.session import ExtProcSession
from picker.wire import decode, encode
from xds_server.model.graph import Backend, Endpoint, Pool
from xds_server.model.objects import ObjectRef

SIZES = {"1 KB": 1 << 10, "64 KB": 64 << 10, "400 KB": 400 << 10}
ENDPOINTS = (4, 100)
SECONDS = 1.0  # of each case
BLOCK = 64  # bytes: blocks of 16 tokens of 4
AS_SERVED = {"ask_usage": True, "inserts": True}  # what the listeners of our own Envoys tell
REF = ObjectRef("inference.networking.k8s.io", "InferencePool", "default", "pool")


class Fixed:
    """Loads that differ and never change."""

    def __init__(self, pool: Pool) -> None:
        chance = random.Random(1)
        self.now = {
            str(endpoint): Load(
                waiting=chance.randrange(4), running=chance.randrange(20), kv_usage=chance.random(), scraped=0.0
            )
            for endpoint in pool.endpoints
        }

    def loads(self, _pool: str) -> Mapping[str, Load]:
        return self.now

    def started(self, decision: Decision, now: float) -> None:
        pass


class Full(Fixed):
    """Every slot of every server is taken, until `leave`."""

    def __init__(self, pool: Pool) -> None:
        # So slow that nobody is better off in its queue, and with a queue, so that nobody tries for one slot more; and each as slow as
        # none of the others, as servers are.
        speeds = (Speed(slots=8.0, seconds=10_000.0 + index) for index in range(len(pool.endpoints)))
        self._full = {
            str(endpoint): Load(waiting=1, running=8, inflight=8, scraped=0.0, speed=speed)
            for endpoint, speed in zip(pool.endpoints, speeds, strict=True)
        }
        self.now = dict(self._full)

    def leave(self, endpoint: str) -> None:
        """One of its requests ends."""
        self.now[endpoint] = replace(self._full[endpoint], inflight=7)

    def started(self, decision: Decision, now: float) -> None:  # noqa: ARG002
        self.now[decision.endpoints[0]] = self._full[decision.endpoints[0]]


def messages(size: int, chance: random.Random) -> tuple[bytes, bytes]:
    """Headers and a buffered body: a system prompt that all share, then half that is new."""
    request = external_processor_pb2.ProcessingRequest()
    request.protocol_config.request_body_mode = processing_mode_pb2.ProcessingMode.BUFFERED
    for name, value in {
        ":method": "POST",
        ":path": "/v1/chat/completions",
        ":authority": "models.example.com",
        ":scheme": "http",
        "content-type": "application/json",
        "user-agent": "OpenAI/Python 2.0.0",
        "authorization": "Bearer 0123456789012345678901234567890123456789",
        "x-request-id": "6a1b2c3d-1111-2222-3333-444455556666",
        "x-forwarded-proto": "http",
        "content-length": str(size),
    }.items():
        header = request.request_headers.headers.headers.add()
        header.key, header.raw_value = name, value.encode()
    half = size // 2
    shared = ("You are a helpful assistant. " * (half // 29 + 1))[:half]
    fresh = "".join(chance.choices("abcdefghijklmnopqrstuvwxyz \n", k=half))
    content = [{"role": "system", "content": shared}, {"role": "user", "content": fresh}]
    body = external_processor_pb2.ProcessingRequest()
    body.request_body.body = json.dumps({"model": "llama", "messages": content, "stream": True}).encode()
    body.request_body.end_of_stream = True
    return request.SerializeToString(), body.SerializeToString()


class Some:
    """Records a share, by counting."""

    def __init__(self, every: int) -> None:
        self._every, self._count = every, 0
        self.taken: deque[DecisionRecord] = deque(maxlen=100)

    def wants(self, _ask: Ask) -> Why | None:
        self._count += 1
        return None if self._count % self._every else "sampled"

    def take(self, record: DecisionRecord) -> None:
        self.taken.append(record)


def told(picker: Picker, pool: Pool, bodies: list[bytes]) -> None:
    """Every endpoint has told that it holds some of the prompts, as far as that goes, and all of them are linked."""
    known = picker.precise(pool.name)
    assert known is not None
    chance = random.Random(3)
    for number, body in enumerate(bodies):
        request = parse({":path": "/v1/chat/completions"}, body)
        tokens = request.prompt[: len(request.prompt) // BLOCK * BLOCK]
        for endpoint in pool.endpoints:
            blocks = int(len(tokens) // BLOCK * chance.choice((0, 0, 0, 0.1, 0.5, 1)))
            first = 100_000 * number
            event = Stored(range(first, first + blocks), None, tokens[: blocks * BLOCK], BLOCK // 4)
            sequence = known[1].feeds[str(endpoint)].sequence if str(endpoint) in known[1].feeds else -1
            known[1].apply(str(endpoint), Batch((sequence or 0) + 1, (event,)), 0.0)
        hashes = hash_blocks(request.prompt, request.model)
        known[1].link(Unlinked(pool.name, request.model, request, hashes), tokens, None)


def pool_of(endpoints: int, *, events: bool = False) -> Pool:
    found = tuple(
        Endpoint(f"10.0.{i // 250}.{i % 250}", 8000, zone=f"z{i % 3}", node=f"n{i}") for i in range(endpoints)
    )
    return Pool(REF, Backend("pool/default/pool", REF, pool=True), found, kv_events=5557 if events else None)


def ask(session: ExtProcSession, data: Iterable[bytes]) -> None:
    for one in data:
        event = decode(one)
        assert event is not None
        for reply in session.receive(event, 1.0, 1.0):
            encode(reply)


def median_us(batch: Callable[[int], None], size: int = 5) -> float:
    """Microseconds of CPU of one request; `batch` serves `size` of them, the first of which has this number."""
    found: list[float] = []
    while sum(found) < SECONDS:
        start = time.process_time()
        batch(len(found) * size)
        found.append(time.process_time() - start)
    return median(found) / size * 1e6


def measure(size: int, endpoints: int, every: int = 100, *, events: bool = False) -> float:
    pool = pool_of(endpoints, events=events)
    picker = Picker(Fixed(pool), records=Some(every))
    picker.update({pool.name: pool})
    chance = random.Random(2)
    different = [messages(size, chance) for _ in range(20)]
    if events:
        bodies = [external_processor_pb2.ProcessingRequest.FromString(body).request_body.body for _, body in different]
        told(picker, pool, bodies[:5])
        different = different[:5]

    def batch(first: int) -> None:
        for number in range(first, first + 5):
            session = ExtProcSession(picker, pool.name, f"id-{number}", **AS_SERVED)
            ask(session, different[number % len(different)])
            assert session.closed

    return median_us(batch)


def measure_full(size: int, endpoints: int, queue: int = 50) -> float:
    """One request comes and one goes, in a pool where `queue` always wait."""
    pool = pool_of(endpoints)
    full = Full(pool)
    picker = Picker(full, records=Some(100))
    picker.update({pool.name: pool})
    chance = random.Random(2)
    different = [messages(size, chance) for _ in range(20)]
    sessions: dict[str, ExtProcSession] = {}

    def arrive(number: int) -> None:
        session = sessions[f"id-{number}"] = ExtProcSession(picker, pool.name, f"id-{number}", **AS_SERVED)
        ask(session, different[number % 20])
        assert session.waiting is not None

    def batch(first: int) -> None:
        for number in range(first + queue, first + queue + 5):
            arrive(number)
            full.leave(str(pool.endpoints[number % endpoints]))
            ((id_, answer),) = picker.poll(1.0)
            for reply in sessions.pop(id_).resume(answer):
                encode(reply)

    for number in range(queue):
        arrive(number)
    return median_us(batch)


def measure_json(size: int) -> float:
    """orjson alone, with the bodies of `measure`."""
    chance = random.Random(2)
    different = [messages(size, chance)[1] for _ in range(20)]
    bodies = [external_processor_pb2.ProcessingRequest.FromString(body).request_body.body for body in different]

    def batch(first: int) -> None:
        for number in range(first, first + 5):
            orjson.loads(bodies[number % len(bodies)])

    return median_us(batch)


def main() -> None:
    rows = []
    for name, size in SIZES.items():
        for endpoints in ENDPOINTS:
            for events in (False, True):
                us = round(measure(size, endpoints, events=events), 1)
                rows.append({"case": f"{name}, {endpoints} endpoints{', KV events' if events else ''}", "us": us})
                print(f"{rows[-1]['case']:>41}  {us:8.1f} us")
    us = round(measure(SIZES["64 KB"], 100, every=1), 1)
    rows.append({"case": "64 KB, 100 endpoints, recorded", "us": us})
    print(f"{rows[-1]['case']:>41}  {us:8.1f} us")
    for case, us in (
        ("400 KB, 100 endpoints, full flow control", measure_full(SIZES["400 KB"], 100)),
        ("400 KB, JSON alone", measure_json(SIZES["400 KB"])),
    ):
        rows.append({"case": case, "us": round(us, 1)})
        print(f"{case:>41}  {us:8.1f} us")
    print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()

"""What the picker tells the world: frozen facts. Exactly one `Outcome` per request; observability subscribes.

Times are seconds; `None` where not known. Token counts come from the model server's `usage`; None where it sent none.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from picker.trace import NO_TRACE, Trace

# Why a request did not end well. One name per cause, the label `reason` of request_errors_total and the log.
Reason = Literal[
    "",  # it ended well
    "bad_request",  # 400: not JSON, no model, wrong types
    "body_too_large",  # 413
    "model_not_found",  # 404: no route or no pool serves this model
    "no_route",  # 404
    "no_endpoints",  # 503: the pool has none that is ready
    "shed_priority",  # 429: negative priority under saturation
    "queue_full",  # 429: too many requests, or bytes, wait in the gateway
    "queue_ttl",  # 429: it waited in the gateway for as long as it may
    "slo_unreachable",  # 429: its TTFT objective cannot be met
    "shutting_down",  # 503: it waited when the gateway ended
    "picker_unavailable",  # 503: FailClose and no picker answered
    "upstream_connect",  # no endpoint accepted the connection
    "upstream_reset",  # the server closed before it answered
    "upstream_timeout",  # 504
    "upstream_4xx",
    "upstream_5xx",
    "stream_aborted",  # the server died after the first byte: never retried
    "client_cancelled",  # the client went away
    "lost",  # no access log entry came before the deadline
]


@dataclass(frozen=True, slots=True)
class Decision:
    """One request was given an ordered list of endpoints."""

    id: str  # unique in the fleet; travels to the access log as dynamic metadata penstock:id
    time: float  # time.time() of the decision
    pool: str  # "ns/name"
    model: str  # as the client asked
    target_model: str  # as the server is asked (rewrite, canary)
    objective: str  # name of the InferenceObjective, or ""
    priority: int
    fairness_id: str
    streaming: bool
    endpoints: tuple[str, ...]  # best first, "ip:port"
    candidates: int  # endpoints that passed the filters
    prompt_tokens: int  # estimated
    matched_tokens: int  # predicted cached tokens on endpoints[0]
    body_bytes: int
    seconds: float  # CPU and waiting between the last request byte and the answer
    request_id: str = ""  # x-request-id: all that Envoy's entry has of us where the client left during the decision
    headers: tuple[tuple[str, str], ...] = ()  # to send with the request; "" takes away what the client sent
    queue: float = 0.0  # of `seconds`, those waited for a free endpoint
    explained: bool = False  # its client asked for the record of it, and may: it is told the id
    trace: Trace = NO_TRACE


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request ended. Built from the Decision and the access log entry, or from either alone."""

    id: str
    time: float  # time.time() when the request began
    pool: str  # "" where the request reached none
    model: str
    target_model: str
    objective: str
    priority: int
    fairness_id: str
    streaming: bool
    status: int  # HTTP status that the client saw; 0 where it saw none
    reason: Reason
    endpoint: str  # that served, "ip:port"; "" for none
    route: str = ""
    duration: float | None = None  # request received -> last byte to the client
    ttft: float | None = None  # request received -> first body byte from the server (streaming: the first event)
    queue: float | None = None  # waited in the gateway
    input_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    predicted_cached_tokens: int | None = None
    request_bytes: int = 0
    response_bytes: int = 0
    attempts: int = 1  # endpoints tried
    trace: Trace = NO_TRACE
    user_agent: str = ""
    path: str = ""
    request_id: str = ""  # x-request-id
    method: str = ""
    schedule: float = 0.0  # of `queue`, the seconds that deciding took
    received: float | None = None  # request received -> its last byte received
    sent: float | None = None  # request received -> its first byte sent to the server that answered


@dataclass(frozen=True, slots=True)
class Refused:
    """The picker answered the request itself: what the client gets. Becomes an Outcome at once."""

    status: int
    reason: Reason
    message: str
    retry_after: int | None = None  # seconds


Observe = Callable[[object], None]  # takes any fact; must not block or raise

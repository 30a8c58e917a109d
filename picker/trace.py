"""W3C trace context: which trace a request belongs to, and whether its spans are made here.

Nothing is kept between two moments of a request: the ids of our spans are hashes of the id of its decision, so whoever knows
that id (the decision, the access log, another replica) names the same spans. Source: W3C Trace Context, level 2;
OpenTelemetry SDK specification, ParentBased and TraceIdRatioBased.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from xxhash import xxh3_64_hexdigest, xxh3_128_hexdigest

HEADER = "traceparent"
# A later version may have more fields. All zeros is no id, and ff is no version.
_FORM = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_SAMPLED = 1  # of the flags
_LONGEST = 256  # bytes of a header that is read


class Trace(NamedTuple):
    """Of one request; all ids are lower-case hex, "" where there is none."""

    trace_id: str = ""  # 32 digits
    span_id: str = ""  # 16 digits: the span that this request is: ours if we make one, else Envoy's, else the client's
    parent_id: str = ""  # the client's span; not known of a trace that Envoy makes
    sampled: bool = False
    header: str = ""  # `traceparent` for the server; "" leaves what the client sent

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """To send with the request. A trace that begins here takes the `tracestate` of another one away."""
        if not self.header:
            return ()
        return ((HEADER, self.header),) if self.parent_id else ((HEADER, self.header), ("tracestate", ""))


NO_TRACE = Trace()


def span(id_: str, name: str) -> str:
    """The id of the span `name` of the request that `id_`, a Decision's, tells from all others."""
    return xxh3_64_hexdigest(f"{id_}/{name}".encode())


def parent(headers: Mapping[str, str]) -> Trace:
    """What the client says, word for word checked: anything else that stands there must not travel into logs and labels."""
    text = headers.get(HEADER, "")
    found = _FORM.fullmatch(text) if 0 < len(text) <= _LONGEST else None
    if found is None or (found[1] == "00" and found[5] is not None):
        return NO_TRACE
    return Trace(found[2], found[3], found[3], bool(int(found[4], 16) & _SAMPLED))


@dataclass(frozen=True, slots=True)
class Tracing:
    """Which requests have spans made here; by default none, and the client's header passes untouched."""

    ratio: float | None = None  # of the requests without a parent; None: spans are not made here at all
    parent_based: bool = True  # a parent decides for its children; else the ratio does for everybody
    proxy: Trace = (
        NO_TRACE  # Envoy's call of the picker, where Envoy has a tracer: then Envoy decides, and tells the server
    )

    def beneath(self, traceparent: str) -> "Tracing":
        """The same, for one call of an Envoy that has told its span."""
        found = parent({HEADER: traceparent})
        return replace(self, proxy=found._replace(parent_id="")) if found.trace_id else self

    def of(self, id_: str, headers: Mapping[str, str]) -> Trace:
        """The trace of the request of the decision `id_`; `headers` have lower-case names."""
        if self.proxy.trace_id:
            return self.proxy
        found = parent(headers)
        if self.ratio is None:
            return found
        trace_id = found.trace_id or xxh3_128_hexdigest(id_.encode())
        if found.trace_id and self.parent_based:
            sampled = found.sampled
        else:
            sampled = int(trace_id[16:], 16) < self.ratio * 2**64
        if not sampled:
            header = f"00-{trace_id}-{found.span_id}-00" if found.sampled else ""
            return found._replace(sampled=False, header=header)
        return Trace(trace_id, span(id_, REQUEST), found.span_id, True, f"00-{trace_id}-{span(id_, UPSTREAM)}-01")


UNTRACED = Tracing()
# Names of the spans of one request.
REQUEST, QUEUE, SCHEDULE, UPSTREAM = "gateway.request", "queue", "schedule", "upstream"

"""The annotations with which a user tells Penstock what no specification has a field for."""

import ipaddress
import re
from typing import NoReturn

from xds_server.model.exporter import Exporter
from xds_server.model.objects import Meta
from xds_server.parse.fields import Fields, seconds
from xds_server.parse.forms import DURATION

MODELS = "penstock.dev/models"
"""On an InferenceObjective: comma separated model names to which it applies without a header."""

ENDPOINTS = "penstock.dev/endpoints"
"""On an InferencePool: comma separated `host:port` model servers, beside or instead of pods.

A host is an IPv4 address, an IPv6 address in brackets, or `localhost` (127.0.0.1): names are never resolved.
"""

PICKER_CONFIG = "penstock.dev/endpoint-picker-config"
"""On an InferencePool: the name of an EndpointPickerConfig document or ConfigMap in its namespace."""

FAILOVER = "penstock.dev/failover"
"""On an InferencePool: comma separated InferencePools of its namespace, asked in this order when it has nothing to give."""

QUEUE_TTL = "penstock.dev/queue-ttl"
"""On an InferencePool: how long a request may wait in the gateway for an endpoint, such as `30s`; `0s` lets none wait."""

TTFT_OBJECTIVE = "penstock.dev/ttft-objective"
"""On an InferencePool: the time to first token that requests ask for which name none themselves, such as `500ms`.

What cannot be answered in that time is answered at once, with 429.
"""

ACCELERATORS = "penstock.dev/accelerator-metrics"
"""On an InferencePool: where its accelerators are measured: `PORT`, `PORT/PATH` or `/PATH` of each pod, `node:PORT` of its node."""

_EXPORTER = re.compile(r"(?P<node>node:)?(?P<port>[0-9]{1,5})?(?P<path>/[!-~]*)?")
KV_EVENTS = "penstock.dev/kv-events"
"""On an InferencePool: where its servers publish their KV events: a port of the pod, or `auto` to ask each server.

The data-parallel rank r, the pool's target port of this index, publishes on the port + r, as vLLM does.
"""

DATA_PARALLEL_RANKS = "penstock.dev/data-parallel-ranks"
"""On an InferencePool: how many data-parallel ranks a server has behind one port, told apart by `x-data-parallel-rank`."""

MOST_RANKS = 64

MODEL_LISTS = "penstock.dev/model-lists"
"""On an InferencePool: `ignore`: servers get requests for models that they do not list."""

USAGE = "penstock.dev/stream-usage"
"""On an InferencePool: `ask`, the default, or `client`: only streams whose clients ask for usage tell it."""

HOST_PORT = re.compile(r"(?:\[(?P<six>[^\]]*)\]|(?P<four>[^:\[\]]+)):(?P<port>[0-9]{1,5})")


def words(text: str) -> tuple[str, ...]:
    """The parts of a comma separated list, without repeats and empty ones."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def endpoint(text: str) -> tuple[str, int]:
    """(IP address, port) of one `host:port`; ValueError where it is none."""
    found = HOST_PORT.fullmatch(text)
    if not found:
        raise ValueError(text)
    port = int(found["port"])
    if not 1 <= port <= 65535:
        raise ValueError(text)
    if found["six"] is not None:
        return str(ipaddress.IPv6Address(found["six"])), port
    host = "127.0.0.1" if found["four"] == "localhost" else found["four"]
    return str(ipaddress.IPv4Address(host)), port


def pool_endpoints(meta: Meta) -> tuple[tuple[str, int], ...]:
    """(IP address, port) of each endpoint that an InferencePool's annotation lists; `check_pool` has checked their form."""
    return tuple(dict.fromkeys(map(endpoint, words(meta.annotations.get(ENDPOINTS, "")))))


def pool_ranks(meta: Meta) -> int:
    """How many ranks are behind each port of an InferencePool; 1: the port is all there is to choose."""
    return int(meta.annotations.get(DATA_PARALLEL_RANKS, "1"))


def pool_waiting(meta: Meta) -> tuple[float | None, float | None]:
    """(how long a request may wait, its TTFT objective) in seconds; None where the annotations say nothing."""
    ttl, objective = (meta.annotations.get(name) for name in (QUEUE_TTL, TTFT_OBJECTIVE))
    return None if ttl is None else seconds(ttl), None if objective is None else seconds(objective) or None


def pool_exporter(meta: Meta) -> Exporter | None:
    """What the annotation names; ValueError where it names nothing."""
    text = meta.annotations.get(ACCELERATORS)
    if text is None:
        return None
    found = _EXPORTER.fullmatch(text.strip())
    port = int(found["port"] or 0) if found else -1
    if found is None or not 0 <= port <= 65535 or not (port or (found["path"] and not found["node"])):
        raise ValueError(text)
    return Exporter(port, found["path"] or "/metrics", on_node=bool(found["node"]))


def pool_kv_events(meta: Meta) -> int | None:
    """The port where servers publish their KV events, 0 where they are to be asked; None without the annotation."""
    text = meta.annotations.get(KV_EVENTS, "").strip()
    return (0 if text == "auto" else int(text)) if text else None


def pool_usage(meta: Meta) -> bool:
    """Whether streams are asked for their usage where the client does not."""
    return meta.annotations.get(USAGE, "ask").strip() == "ask"


def pool_model_lists(meta: Meta) -> bool:
    """Whether a server gets no requests for models that it does not list."""
    return MODEL_LISTS not in meta.annotations


def check_pool(root: Fields, meta: Meta) -> None:
    """Refuse annotations of an InferencePool that do not say what they should."""

    def refuse(name: str, message: str) -> NoReturn:
        root.fail(f"metadata.annotations[{name}]", message)

    for item in words(meta.annotations.get(ENDPOINTS, "")):
        try:
            endpoint(item)
        except ValueError:
            refuse(
                ENDPOINTS, f"must be host:port, got {item[:60]!r}; write one such as 10.0.0.1:8000 or [fd00::1]:8000"
            )
    if PICKER_CONFIG in meta.annotations and not meta.annotations[PICKER_CONFIG].strip():
        refuse(PICKER_CONFIG, "must name an EndpointPickerConfig or ConfigMap; write its name or remove the annotation")
    try:
        pool_exporter(meta)
    except ValueError as error:
        refuse(
            ACCELERATORS,
            f"must be PORT, PORT/PATH, /PATH or node:PORT, got {str(error)[:60]!r}; DCGM's exporter has 9400",
        )
    port = meta.annotations.get(KV_EVENTS, "auto").strip()
    if port != "auto" and not (re.fullmatch("[0-9]{1,5}", port) and 1 <= int(port) <= 65535):
        refuse(KV_EVENTS, f"must be a port or `auto`, got {port[:60]!r}; write 5557, or remove the annotation")
    lists = meta.annotations.get(MODEL_LISTS, "ignore")
    if lists != "ignore":
        refuse(MODEL_LISTS, f"must be `ignore`, got {lists[:60]!r}; write that, or remove the annotation")
    ranks = meta.annotations.get(DATA_PARALLEL_RANKS, "1")
    if not re.fullmatch("[1-9][0-9]?", ranks) or int(ranks) > MOST_RANKS:
        refuse(
            DATA_PARALLEL_RANKS,
            f"must be a number from 1 to {MOST_RANKS}, got {ranks[:60]!r}; write the servers' --data-parallel-size",
        )
    usage = meta.annotations.get(USAGE, "ask").strip()
    if usage not in ("ask", "client"):
        refuse(USAGE, f"must be `ask` or `client`, got {usage[:60]!r}; write `client` to leave it to clients")
    for name in (QUEUE_TTL, TTFT_OBJECTIVE):
        text = meta.annotations.get(name)
        if text is not None and not DURATION.pattern.fullmatch(text):
            refuse(name, f"must be {DURATION.must}, got {text[:60]!r}; {DURATION.remedy}")

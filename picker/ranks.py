"""Data-parallel ranks behind one port: each is a candidate of its own, named `ip:port@rank`, of which Envoy knows `ip:port`.

vLLM and SGLang balance over their ranks themselves, unless a request says by header which of them it is for. Envoy sends a retry to
another address with the headers of the first try, so a fallback is the same rank elsewhere. Source: vLLM 0.32, internal load balancer
(`--data-parallel-size` without external or hybrid); SGLang 0.5.23 (openai/serving_base.py). See it run: tests/e2e/test_ranks.py.
"""

from collections.abc import Mapping, Sequence
from math import inf

from picker.load import Load
from picker.scorers import Picker, View

HEADER = "x-data-parallel-rank"


def host_port(name: str) -> str:
    """The address of a candidate, as Envoy knows it."""
    return name.partition("@")[0]


def headers(name: str) -> tuple[tuple[str, str], ...]:
    """What the server is told of a candidate's rank, in place of what the client said; nothing where the port tells it."""
    _, found, rank = name.partition("@")
    return ((HEADER, rank),) if found else ()


def attempts(names: Sequence[str]) -> tuple[str, ...]:
    """The best, then every other address once, at the best's rank: what Envoy will try. Other names: each once."""
    _, found, rank = names[0].partition("@")
    return tuple(dict.fromkeys([f"{host_port(name)}@{rank}" for name in names] if found else names))


def answered(names: Sequence[str], address: str) -> str:
    """Which of a decision's endpoints the address stands for that Envoy says has answered; itself where it is none of them."""
    return address if address in names else next((name for name in names if host_port(name) == address), address)


def chosen(pick: Picker, view: View, scores: list[float], request_id: str) -> list[int]:
    """What the picker chooses, with fallbacks at the rank of the best one: at other addresses, or there is none."""
    found = pick(view, scores, request_id)
    best = view.endpoints[found[0]]
    if not best.by_header or len(found) == 1:
        return found
    same = [i for i, one in enumerate(view.endpoints) if one.by_header and one.rank == best.rank]
    again = pick(view.only(same), [scores[i] for i in same], request_id)
    return [found[0], *(same[i] for i in again if same[i] != found[0])][: len(found)]


# Of a rank that the server's page does not name, while it names others: there is none, and a request for it would be answered 400.
ABSENT = Load(resting=inf)


def count(page: bytes) -> int:
    """How many ranks a page of a server's metrics names, from 0 on without a gap."""
    label = b'dp_rank="%d"' if b"\nsglang:" in page else b'engine="%d"'
    found = 0
    while label % found in page:
        found += 1
    return found


def note(loads: Mapping[str, Load], several: Mapping[str, int]) -> str:
    """What a person should know of a pool's ranks; "" for nothing. `several`: endpoints that are more than one, and how many."""
    found = next((name for name in loads if name in several), "")
    if found:
        return (
            f"{found} has {several[found]} data-parallel ranks behind its port, among which the server chooses; the "
            f'annotation penstock.dev/data-parallel-ranks: "{several[found]}" has the gateway choose'
        )
    absent = [name for name, load in loads.items() if load.resting == inf]
    if not absent:
        return ""
    return (
        f"{len(absent)} of {len(loads)} data-parallel ranks do not exist, such as {absent[0]}, and get no requests; "
        "penstock.dev/data-parallel-ranks must be the servers' --data-parallel-size"
    )

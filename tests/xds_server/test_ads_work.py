"""What a message costs an AdsSession: an ACK looks at no resource, a snapshot at each of a type once."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.xds_server.model_envoy import ModelEnvoy, resource
from xds_server.ads import AdsSession
from xds_server.facts import Response
from xds_server.snapshot import Resource, Snapshot

COUNT = 100


class Counted(dict[str, Resource]):
    """Counts how many resources were looked at one by one."""

    looked = 0

    def __getitem__(self, name: str) -> Resource:
        Counted.looked += 1
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        Counted.looked += 1
        return super().get(name, default)

    def __contains__(self, name: object) -> bool:
        Counted.looked += 1
        return super().__contains__(name)

    def __iter__(self) -> Iterator[str]:
        Counted.looked += len(self)
        return super().__iter__()


def snapshot(version: int, count: int = COUNT) -> Snapshot:
    names = [f"c{number:03}" for number in range(count)]
    found = Snapshot.of(
        clusters=[resource(name, 0) for name in names],
        endpoints=[resource(name, version if name == "c007" else 0) for name in names],
        listeners=[resource("l", 0, refs=["r"])],
        routes=[resource("r", version, refs=names)],
    )
    return Snapshot({url: Counted(found.of_type(url)) for url in found.resources})


@pytest.mark.parametrize("delta", [True, False])
def test_an_acknowledgement_looks_at_no_resource(delta: bool) -> None:
    session, envoy = AdsSession(delta=delta), ModelEnvoy(delta=delta)

    def settle(responses: list[Response]) -> list[int]:
        """Until nobody has anything to say; what each request cost."""
        costs: list[int] = []
        while responses or envoy.outbox:
            for response in responses:
                envoy.deliver(response)
            Counted.looked = 0
            responses = session.receive(envoy.outbox.popleft(), 0.0) if envoy.outbox else []
            costs.append(Counted.looked)
        return costs

    settle(session.update(snapshot(0), 0.0))
    for version in (1, 2, 1):
        Counted.looked = 0
        responses = session.update(snapshot(version), 0.0)
        assert responses
        assert Counted.looked < 8 * COUNT  # clusters and endpoints, and whose cluster each endpoint is of
        costs = settle(responses)
        assert len(costs) > 1
        assert max(costs) < COUNT // 2

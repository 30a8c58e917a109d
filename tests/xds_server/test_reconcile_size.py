"""What is resolved off the event loop: many routes, whether of many objects or of few."""

from tests.xds_server.resolve_world import thing
from xds_server.model.objects import ClusterState
from xds_server.reconcile import _LARGE, _size


def test_a_state_is_as_large_as_its_routes_not_as_its_objects() -> None:
    matches = [{"path": {"value": f"/{number}"}} for number in range(16)]
    few = [thing("HTTPRoute", f"r{number}", {"rules": [{"matches": matches}] * 8}) for number in range(1)]
    assert _size(ClusterState.of(few)) == 1 + 8 * 16 > _LARGE
    assert _size(ClusterState.of([thing("Namespace", "n")])) == 1 < _LARGE

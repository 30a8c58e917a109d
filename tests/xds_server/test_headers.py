"""Header filters of routes to pools, as what Envoy does before the picker is asked."""

import pytest

from picker.request import FAIRNESS_HEADERS, OBJECTIVE_HEADERS
from xds_server.model.objects import HeaderFilter
from xds_server.translate.headers import as_filter


def removed(*filters: HeaderFilter) -> list[str]:
    found = as_filter(filters)
    assert found is not None
    assert found.mutations is not None
    return [each.remove for each in found.mutations.request_mutations if each.remove]


@pytest.mark.parametrize("names", [OBJECTIVE_HEADERS, FAIRNESS_HEADERS])
def test_what_a_route_sets_a_client_cannot_overrule_by_the_other_name(names: tuple[str, str]) -> None:
    for name, other in (names, names[::-1]):
        assert removed(HeaderFilter("request", set=((name, "batch"),))) == [other]
        assert removed(HeaderFilter("request", remove=(name,))) == [other, name]
    assert removed(HeaderFilter("request", set=tuple((name, "batch") for name in names))) == []
    assert removed(HeaderFilter("request", set=(("x-team", "a"),), remove=("x-b",))) == ["x-b"]

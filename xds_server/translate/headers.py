"""Header filters in the two forms that Envoy knows: on the route (applied by the router) and as a filter (seen by the picker)."""

from collections.abc import Iterable

from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutation
from envoy_data_plane.envoy.config.core.v3 import HeaderValue, HeaderValueOption, HeaderValueOptionHeaderAppendAction
from envoy_data_plane.envoy.extensions.filters.http.header_mutation.v3 import HeaderMutationPerRoute, Mutations

from xds_server.model.names import ALIASES
from xds_server.model.objects import HeaderFilter

_ADD = HeaderValueOptionHeaderAppendAction.APPEND_IF_EXISTS_OR_ADD
_SET = HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD


def option(name: str, value: str, action: HeaderValueOptionHeaderAppendAction = _SET) -> HeaderValueOption:
    """A header to write. Envoy's formatter reads `%`, so a literal one is doubled by the caller that has user text."""
    return HeaderValueOption(header=HeaderValue(key=name, value=value), append_action=action)


def on_route(filters: Iterable[HeaderFilter]) -> dict[str, list[HeaderValueOption] | list[str]]:
    """As the fields of a Route or of a weighted cluster: request_headers_to_add, ..., response_headers_to_remove."""
    fields: dict[str, list[HeaderValueOption] | list[str]] = {}
    for each in filters:
        _extend(fields, f"{each.on}_headers_to_add", _options(each))
        _extend(fields, f"{each.on}_headers_to_remove", list(each.remove))
    return fields


def as_filter(filters: Iterable[HeaderFilter]) -> HeaderMutationPerRoute | None:
    """The request part as a per-route header_mutation, which runs before the picker is asked; None if there is none.

    A header that the picker also knows by another name is removed under that one: what a route sets, no client overrules.
    """
    found = tuple(filters)
    names = {name for each in found for name in (*(name for name, _ in (*each.set, *each.add)), *each.remove)}
    mutations = [
        HeaderMutation(remove=other) for name, other in ALIASES.items() if name in names and other not in names
    ]
    for each in found:
        mutations += [HeaderMutation(append=added) for added in _options(each)]
        mutations += [HeaderMutation(remove=name) for name in each.remove]
    return HeaderMutationPerRoute(mutations=Mutations(request_mutations=mutations)) if mutations else None


def _options(each: HeaderFilter) -> list[HeaderValueOption]:
    written = [option(name, _literal(value), _SET) for name, value in each.set]
    return written + [option(name, _literal(value), _ADD) for name, value in each.add]


def _literal(value: str) -> str:
    return value.replace("%", "%%")


def _extend(
    fields: dict[str, list[HeaderValueOption] | list[str]], name: str, more: list[HeaderValueOption] | list[str]
) -> None:
    if more:
        fields[name] = [*fields.get(name, []), *more]

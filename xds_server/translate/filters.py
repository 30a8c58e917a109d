"""The HTTP filters of a chain, in their order: what no route of it uses is not there.

On the way in: cors, what the Gateway asks for every request, the model, what routes ask (`auth`), header filters, the picker,
sessions, the router. Cases: tests/golden.
"""

import betterproto2
from envoy_data_plane.envoy.extensions.filters.http.buffer.v3 import Buffer as BufferConfig, BufferPerRoute
from envoy_data_plane.envoy.extensions.filters.http.cors.v3 import Cors
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.http.stateful_session.v3 import StatefulSession
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.google.protobuf import Any as AnyMessage

from xds_server.model.graph import Chain, Forward, Route
from xds_server.model.names import ROUTER
from xds_server.translate import auth, cors, inference, session
from xds_server.translate.chain import asks_apart, auths, routes, routes_by_model
from xds_server.translate.encode import pack
from xds_server.translate.settings import DataPlane

CORS = "envoy.filters.http.cors"
BUFFER = "envoy.filters.http.buffer"
SESSION = "envoy.filters.http.stateful_session"


def http_filters(chain: Chain, plane: DataPlane, *, ours: bool) -> list[HttpFilter]:
    """`ours`: some chain of the port asks the co-located picker."""
    by_model = routes_by_model(chain)
    found = list(routes(chain))
    asked = auth.of_routes(auths(chain), by_model=by_model)
    model, picker = inference.filters(plane, by_model=by_model) if ours else ([], [])
    sessions = any(isinstance(each.action, Forward) and each.action.session for each in found)
    return [
        *([_filter(CORS, Cors())] if any(each.cors for each in found) else []),
        *auth.of_gateway(chain.auth),
        *model,
        *asked,
        *([_filter(BUFFER, BufferConfig(max_request_bytes=plane.max_body))] if asks_apart(chain) else []),
        *picker,
        *([_filter(SESSION, StatefulSession())] if sessions else []),
        router(),
    ]


def router() -> HttpFilter:
    return _filter(ROUTER, Router())


def _filter(name: str, config: betterproto2.Message) -> HttpFilter:
    return HttpFilter(name=name, typed_config=pack(config))


def on_route(found: Route) -> dict[str, AnyMessage]:
    """What wakes the filters that a route uses, except those of pools."""
    said: dict[str, AnyMessage] = {}
    if found.cors:
        said[CORS] = pack(cors.policy(found.cors))
    if found.auth:
        said |= auth.on_route(found.auth)
    if isinstance(found.action, Forward) and found.action.session:
        said[SESSION] = pack(session.persistence(found.action.session))
    return said


def on_table(chain: Chain) -> dict[str, AnyMessage]:
    """What a route table says for routes that say nothing."""
    said = auth.unless_said(auths(chain)) if routes_by_model(chain) else {}
    return said | ({BUFFER: pack(BufferPerRoute(disabled=True))} if asks_apart(chain) else {})


def whole(plane: DataPlane) -> dict[str, AnyMessage]:
    """For a share that goes to a pool apart: the whole body first, so that no slow client looks like a hung picker."""
    return {BUFFER: pack(BufferPerRoute(buffer=BufferConfig(max_request_bytes=plane.max_body)))}

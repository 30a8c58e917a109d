"""Session persistence: the endpoint that answered first is named in a cookie or a header, and asked again.

Source: Gateway API GEP-1619; Envoy `filters.http.stateful_session.v3`. Not for pools: where a request goes is the picker's
decision. Cases: tests/xds_server/test_translate_filters.py.
"""

from datetime import timedelta

from envoy_data_plane.envoy.config.core.v3 import TypedExtensionConfig
from envoy_data_plane.envoy.extensions.filters.http.stateful_session.v3 import StatefulSession, StatefulSessionPerRoute
from envoy_data_plane.envoy.extensions.http.stateful_session.cookie.v3 import CookieBasedSessionState
from envoy_data_plane.envoy.extensions.http.stateful_session.header.v3 import HeaderBasedSessionState
from envoy_data_plane.envoy.type.http.v3 import Cookie

from xds_server.model.graph import Persistence
from xds_server.translate.encode import pack


def persistence(found: Persistence) -> StatefulSessionPerRoute:
    state = TypedExtensionConfig(name=f"envoy.http.stateful_session.{found.kind.lower()}")
    if found.kind == "Header":
        state.typed_config = pack(HeaderBasedSessionState(name=found.name))
    else:
        ttl = timedelta(seconds=found.ttl) if found.ttl else None
        state.typed_config = pack(CookieBasedSessionState(cookie=Cookie(name=found.name, path=found.path, ttl=ttl)))
    return StatefulSessionPerRoute(stateful_session=StatefulSession(session_state=state))

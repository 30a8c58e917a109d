"""CORS: which origins a browser may let call a route, answered by Envoy itself.

Source: Gateway API 1.7 HTTPCORSFilter; Envoy `filters.http.cors.v3`. Cases: tests/xds_server/test_translate_cors.py.
"""

import re

from envoy_data_plane.envoy.extensions.filters.http.cors.v3 import CorsPolicy
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatcher, StringMatcher

from xds_server.model.graph import CORS


def policy(found: CORS) -> CorsPolicy:
    """The policy of a route. Envoy answers a "*" with what was asked for, which credentials require."""
    wanted = found.filter
    return CorsPolicy(
        allow_origin_string_match=[_origin(each) for each in wanted.origins],
        allow_methods=", ".join(wanted.methods),
        allow_headers=", ".join(wanted.headers),
        expose_headers=", ".join(wanted.expose),
        max_age=str(wanted.max_age),
        allow_credentials=wanted.credentials,
        forward_not_matching_preflights=False,
    )


def _origin(origin: str) -> StringMatcher:
    """A "*" in a name stands for one or more labels."""
    if origin == "*":
        return StringMatcher(safe_regex=RegexMatcher(regex=".*"))
    if "*" not in origin:
        return StringMatcher(exact=origin, ignore_case=True)
    return StringMatcher(safe_regex=RegexMatcher(regex="(?i)" + re.escape(origin).replace(r"\*", "[^/:]+")))

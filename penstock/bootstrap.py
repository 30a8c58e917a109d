"""The bootstrap of an Envoy that gets everything else by delta ADS: `penstock bootstrap`, and the Envoy of `penstock run`.

Source: Envoy `config.bootstrap.v3`. Plain data, since Envoy reads it as JSON or YAML and users edit it.
"""

from typing import Any

_HTTP2 = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_TYPE = "type.googleapis.com/"


def bootstrap(
    xds: str, *, node_id: str, fleet: str = "", admin: str = "127.0.0.1:19000", max_connections: int = 50_000
) -> dict[str, Any]:
    """`xds` and `admin` are "host:port" or "unix:PATH"; `fleet` is what the xDS server serves (node.cluster)."""
    ads = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
    return {
        "node": {"id": node_id, "cluster": fleet or "penstock"},
        "admin": {"address": address(admin)},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}],
            },
            "cds_config": ads,
            "lds_config": ads,
        },
        "static_resources": {"clusters": [_xds_cluster(xds)]},
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": _TYPE
                        + "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                        "max_active_downstream_connections": max_connections,
                    },
                }
            ]
        },
    }


def address(target: str) -> dict[str, Any]:
    """An Envoy address from "host:port", "[host]:port" or "unix:PATH"; ValueError says what is wrong."""
    if target.startswith("unix:"):
        return {"pipe": {"path": target.removeprefix("unix:")}}
    host, _, port = target.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{target!r} is no address; write HOST:PORT, [IPV6]:PORT or unix:PATH")
    return {"socket_address": {"address": host.strip("[]"), "port_value": int(port)}}


def _xds_cluster(xds: str) -> dict[str, Any]:
    where = address(xds)
    named = "socket_address" in where and not _numeric(where["socket_address"]["address"])
    return {
        "name": "xds",
        "type": "STRICT_DNS" if named else "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": "xds", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": where}}]}]},
        "typed_extension_protocol_options": {
            _HTTP2: {
                "@type": _TYPE + _HTTP2,
                "explicit_http_config": {
                    "http2_protocol_options": {"connection_keepalive": {"interval": "30s", "timeout": "5s"}}
                },
            }
        },
    }


def _numeric(host: str) -> bool:
    return ":" in host or host.replace(".", "").isdigit()

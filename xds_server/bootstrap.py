"""The bootstrap of an Envoy that gets everything else by delta ADS: `penstock bootstrap`, the Envoy of `penstock run`, and the
fleet of a Gateway in Kubernetes.

Source: Envoy `config.bootstrap.v3`. Plain data, since Envoy reads it as JSON or YAML and users edit it.
"""

from dataclasses import dataclass
from typing import Any

_HTTP2 = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_TYPE = "type.googleapis.com/"
_FILTERS = _TYPE + "envoy.extensions.filters."
_TLS = _TYPE + "envoy.extensions.transport_sockets.tls.v3."
_ADMIN = "admin"  # the cluster that leads to our own admin socket
REGEX_PROGRAM = 10_000  # instructions of a regular expression; Envoy stops at 100, which a list of a dozen words has
_AGAIN = {
    "base_interval": "0.5s",
    "max_interval": "5s",
}  # Envoy's own is 30 s: a control plane that is back is found soon
TOKEN_SECRET = "penstock.dev/token"  # noqa: S105  a name


@dataclass(frozen=True, slots=True)
class Trust:
    """How an Envoy knows the control plane, and how that knows the Envoy. For every stream to us: xDS, picker, access log."""

    authority: str  # PEM of the CA; public
    server_name: str  # SNI, and a DNS name in the server's certificate
    token_file: str  # a ServiceAccount token, mounted; kubelet renews it
    token_sds: str  # a file with `token_secret()`, which Envoy takes as its secret


@dataclass(frozen=True, slots=True)
class Status:
    """A listener for kubelet and Prometheus: GET /ready, and GET /stats/prometheus of the admin, nothing else."""

    port: int
    address: str = "0.0.0.0"  # noqa: S104  kubelet asks at the pod's address


def bootstrap(
    xds: str,
    *,
    node_id: str = "",
    fleet: str = "",
    admin: str = "127.0.0.1:19000",
    max_connections: int = 50_000,
    trust: Trust | None = None,
    status: Status | None = None,
) -> dict[str, Any]:
    """`xds` and `admin` are "host:port" or "unix:PATH"; `fleet` is what the xDS server serves (node.cluster).

    Without `node_id` the node is left to --service-node and --service-cluster. Without `trust` xDS is plaintext.
    """
    ads = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
    static: dict[str, Any] = {"clusters": [_xds_cluster(xds, trust)]}
    if status:
        static["listeners"] = [_status_listener(status)]
        static["clusters"].append(_cluster(_ADMIN, admin))
    return {
        **({"node": {"id": node_id, "cluster": fleet or "penstock"}} if node_id else {}),
        "admin": {"address": address(admin)},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds", "retry_policy": {"retry_back_off": _AGAIN}}}],
            },
            "cds_config": ads,
            "lds_config": ads,
        },
        "static_resources": static,
        "layered_runtime": {
            "layers": [{"name": "penstock", "static_layer": {"re2.max_program_size.error_level": REGEX_PROGRAM}}]
        },
        "bootstrap_extensions": [  # listeners that only our own clusters reach
            {
                "name": "envoy.bootstrap.internal_listener",
                "typed_config": {"@type": _TYPE + "envoy.extensions.bootstrap.internal_listener.v3.InternalListener"},
            }
        ],
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


def transport_socket(trust: Trust) -> dict[str, Any]:
    """TLS to the control plane: its certificate must come from our own CA and carry the name."""
    name = {"san_type": "DNS", "matcher": {"exact": trust.server_name}}
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": _TLS + "UpstreamTlsContext",
            "sni": trust.server_name,
            "common_tls_context": {
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
                "alpn_protocols": ["h2"],  # gRPC servers end a connection that does not ask for it
                "validation_context": {
                    "trusted_ca": {"inline_string": trust.authority},
                    "match_typed_subject_alt_names": [name],
                },
            },
        },
    }


def credential_filters(trust: Trust) -> list[dict[str, Any]]:
    """Upstream HTTP filters that send the token as `authorization: Bearer ...`; the last one must be the codec."""
    secret = {"name": TOKEN_SECRET, "sds_config": {"path_config_source": {"path": trust.token_sds}}}
    generic = "envoy.extensions.http.injected_credentials.generic.v3.Generic"
    injector = {
        "@type": _FILTERS + "http.credential_injector.v3.CredentialInjector",
        "overwrite": True,
        "credential": {
            "name": "envoy.http.injected_credentials.generic",
            "typed_config": {"@type": _TYPE + generic, "credential": secret, "header_value_prefix": "Bearer "},
        },
    }
    codec = {"@type": _FILTERS + "http.upstream_codec.v3.UpstreamCodec"}
    return [
        {"name": "envoy.filters.http.credential_injector", "typed_config": injector},
        {"name": "envoy.filters.http.upstream_codec", "typed_config": codec},
    ]


def token_secret(trust: Trust) -> dict[str, Any]:
    """The content of `trust.token_sds`: a file of its own, for only what comes by SDS is read again when the token changes."""
    folder, _, _ = trust.token_file.rpartition("/")
    source = {"filename": trust.token_file, "watched_directory": {"path": folder}}
    secret = {"@type": _TLS + "Secret", "name": TOKEN_SECRET, "generic_secret": {"secret": source}}
    return {"resources": [secret]}


def _cluster(name: str, target: str) -> dict[str, Any]:
    where = address(target)
    named = "socket_address" in where and not _numeric(where["socket_address"]["address"])
    return {
        "name": name,
        "type": "STRICT_DNS" if named else "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": where}}]}]},
    }


def _xds_cluster(xds: str, trust: Trust | None) -> dict[str, Any]:
    http2 = {"http2_protocol_options": {"connection_keepalive": {"interval": "30s", "timeout": "5s"}}}
    options: dict[str, Any] = {"@type": _TYPE + _HTTP2, "explicit_http_config": http2}
    found = _cluster("xds", xds) | {"typed_extension_protocol_options": {_HTTP2: options}}
    if trust:
        options["http_filters"] = credential_filters(trust)
        found["transport_socket"] = transport_socket(trust)
    return found


def _status_listener(status: Status) -> dict[str, Any]:
    """Envoy opens it once it has its first listeners and clusters, even if there are none: open means ready.

    The path is matched exactly, so nothing else of the admin can be reached through it.
    """
    get = [{"name": ":method", "string_match": {"exact": "GET"}}]
    manager = {
        "@type": _FILTERS + "network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "status",
        "route_config": {
            "name": "status",
            "virtual_hosts": [
                {
                    "name": "status",
                    "domains": ["*"],
                    "routes": [{"match": {"path": "/stats/prometheus", "headers": get}, "route": {"cluster": _ADMIN}}],
                }
            ],
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.health_check",
                "typed_config": {
                    "@type": _FILTERS + "http.health_check.v3.HealthCheck",
                    "pass_through_mode": False,
                    "headers": [{"name": ":path", "string_match": {"exact": "/ready"}}],
                },
            },
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": _FILTERS + "http.router.v3.Router"},
            },
        ],
    }
    return {
        "name": "penstock/status",
        "address": {"socket_address": {"address": status.address, "port_value": status.port}},
        "bypass_overload_manager": True,  # a full Envoy is busy, not broken
        "ignore_global_conn_limit": True,
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }


def _numeric(host: str) -> bool:
    return ":" in host or host.replace(".", "").isdigit()

"""Where Envoy finds the resources that others refer to."""

from envoy_data_plane.envoy.config.core.v3 import AggregatedConfigSource, ApiVersion, ConfigSource


def ads() -> ConfigSource:
    """Over the stream that the resource itself came by."""
    return ConfigSource(ads=AggregatedConfigSource(), resource_api_version=ApiVersion.V3)

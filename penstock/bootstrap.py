"""The bootstrap of an Envoy, as `penstock bootstrap` prints it and `penstock run` uses it; made in `xds_server.bootstrap`."""

from xds_server.bootstrap import address, bootstrap

__all__ = ["address", "bootstrap"]

"""The xDS server: Gateway API objects in, Envoy resources out."""

"""translate: Graph -> Envoy messages."""

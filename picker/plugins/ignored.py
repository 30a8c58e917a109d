"""Plugins of llm-d that are no function here: built in, replaced by something coarser, or refused, with what to do instead."""

from collections.abc import Mapping

_PARSED = "requests are parsed by path"
_QUEUES = "see the section flowControl"

# What these do is done here anyway, whatever their parameters say.
BUILT_IN: Mapping[str, str] = {
    "openai-parser": _PARSED,
    "anthropic-parser": _PARSED,
    "passthrough-parser": _PARSED,
    "sglanghttp-parser": _PARSED,
    "vllmhttp-parser": _PARSED,
    "approx-prefix-cache-producer": "blocks of 64 tokens and more; each server's own cache size where it tells it",
    "inflight-load-producer": "requests in flight are counted here",
    "session-id-producer": "the usual headers that name a session are read",
    "agent-identity": "the usual headers that name a session are read",
    "mm-embeddings-cache-producer": "2048 images, videos and sounds for each endpoint",
    "predicted-latency-producer": "latency is learned here from the requests that ended",
    "metrics-data-source": "endpoints are scraped on their own port, more often the busier they are",
    "core-metrics-extractor": "the metrics of vLLM, SGLang, TensorRT-LLM and Triton are known",
    "models-data-source": "models are known by the metrics of their adapters",
    "dcgm-extractor": "what a dcgm-data-source says is known",
    "models-data-extractor": "models are known by the metrics of their adapters",
    "model-server-protocol-models": "models are known by the metrics of their adapters",
    "topology-extractor": "host and zone are the node's; rack and region are the pod's labels topology.kubernetes.io/*",
    "disagg-headers-handler": "the profile handler sets these headers",
    "prefill-header-handler": "the profile handler sets these headers",
    "destination-endpoint-served-verifier": "the endpoint that served is in metrics and logs",
}

# What stands in for these is coarser.
APPROXIMATED: Mapping[str, str] = {
    "burst-prefix-cache-producer": "replaced by the approximate prefix index, which knows of a request as soon as it is sent: "
    "no request is held back for others",
    "endpoint-notification-source": "not needed: endpoints come from the InferencePool",
    "k8s-notification-source": "not needed: endpoints come from the InferencePool",
    "token-producer": "tokens are estimated, 4 bytes each; where KV events are read, the servers' own tokenizers are asked",
    "tokenizer": "tokens are estimated, 4 bytes each; where KV events are read, the servers' own tokenizers are asked",
    "vllmgrpc-parser": "gRPC requests pass through unread and are placed by load",
    "vertexai-parser": "such requests pass through unread and are placed by load",
    "local-syncer": "replicas learn on their own",
}

_CLUSTERS = (
    "endpoints in other clusters are not picked here; remove it, and give each cluster a backend of an HTTPRoute"
)

REFUSED: Mapping[str, str] = {
    "file-discovery": "endpoints come from the InferencePool; remove it, and list them in an InferencePool or EndpointSlices",
    "p2p-source-producer": "KV caches are not pulled from peers on our word; remove it",
    "request-attribute-reporter": "expressions over usage are not evaluated; remove it: token counts are metrics and log fields",
    "disaggregatedset-rollout-screener": "revisions are not screened; remove it, and use label-selector-filter on the "
    "revision's label",
} | dict.fromkeys(
    (
        "multicluster-file-discovery", "multicluster-queue-scorer", "multicluster-kv-cache-utilization-scorer",
        "multicluster-prefix-cache-scorer", "multicluster-session-affinity-filter", "multicluster-metrics-data-source",
        "multicluster-metrics-extractor", "multicluster-approx-prefix-cache-producer",
    ),
    _CLUSTERS,
)  # fmt: skip

"""The names that both ends of the data path must agree on: metadata namespaces, headers, filters. Each with its source."""

# Endpoint-picker protocol, Gateway API Inference Extension proposal 004.
LB_NAMESPACE = "envoy.lb"
SUBSET_NAMESPACE = "envoy.lb.subset_hint"
DESTINATION = "x-gateway-destination-endpoint"
SERVED = "x-gateway-destination-endpoint-served"

# Body-based routing, Gateway API Inference Extension: the model of the body as a header that routes can match.
MODEL_HEADER = "x-gateway-model-name"
AI_NAMESPACE = "ai"  # dynamic metadata: model, error, prompt_tokens, completion_tokens, cached_tokens

# Two names of one thing: llm-d's and that of the Inference Extension. The picker takes either from a client.
_ASKED = ("inference-objective", "inference-fairness-id")
ALIASES = {
    f"x-{one}-{name}": f"x-{other}-{name}"
    for name in _ASKED
    for one, other in (("gateway", "llm-d"), ("llm-d", "gateway"))
}

# llm-d router: which InferenceObjective, and which tenant.
OBJECTIVE_HEADER = "x-gateway-inference-objective"
FAIRNESS_HEADER = "x-gateway-inference-fairness-id"
# The model to ask the server for, unless an InferenceModelRewrite says so. Only a route may say it: see `connection_manager`.
REWRITE_HEADERS = ("x-llm-d-model-name-rewrite", "x-gateway-model-name-rewrite")

# Ours. A client's copies are removed before anything looks at them.
PENSTOCK_NAMESPACE = "penstock"  # dynamic metadata: the id of a decision; "asked" and "target" of a rewritten model
UNASKED_USAGE = "unasked_usage"  # of the same: the stream tells its usage, and its client did not ask
INSERT = "insert"  # of the same: what the filter of answers is to write into the body before it is sent
INSERT_AT = "insert_at"  # and how many bytes of the body come before it
POOL_METADATA = "x-penstock-pool"  # gRPC initial metadata of a picker stream: "ns/name"
USAGE_METADATA = "x-penstock-usage"  # another: streams may be asked for usage, since what is unasked is removed here
INSERT_METADATA = "x-penstock-insert"  # another, of a listener whose filter of answers does what `INSERT` says
BODY_HEADER = "x-penstock-body"  # "invalid": the body is not the JSON that it says it is
PICKER_HEADER = "x-penstock-picker"  # of an answer inside Envoy: a pool's picker could not be asked
STAND_IN_PREFIX = "over/"  # of clusters that lead to listeners of ours, each of which logs what it is given
RESERVED_PREFIXES = ("x-gateway-destination-", "x-penstock-")

# A client asks why its request was decided as it was, and is told the id of the record. Not of the reserved names, whose
# copies of clients are removed.
EXPLAIN_HEADER = "penstock-explain"
DECISION_HEADER = "penstock-decision"
DECISION_KEY = "decision"  # of the dynamic metadata: the same id, where the client asked for it

PICKER_CLUSTER = "penstock/picker"
INVALID_CLUSTER = "penstock/invalid-backend"  # exists nowhere: Envoy answers 500 for its share of the requests

LUA = "envoy.filters.http.lua"
ROUTER = "envoy.filters.http.router"
EXT_PROC = "envoy.filters.http.ext_proc"
JSON_TO_METADATA = "envoy.filters.http.json_to_metadata"
MODEL_TO_HEADER = "penstock.model_to_header"  # an envoy.filters.http.header_mutation
ROUTE_HEADERS = "penstock.route_headers"  # another: header filters of routes to pools, which the picker must see

"""What is answered to a request that goes nowhere: its Outcome says what was known of it."""

from picker.ask import Ask, denied, objective_of
from picker.facts import Refused
from picker.request import InferenceRequest
from xds_server.model.graph import Objective

GOLD = Objective("gold", 10, ("m",))


def test_a_refusal_is_an_outcome() -> None:
    ask = Ask(InferenceRequest("/v1/completions", model="m", body_bytes=7), "ns/p", None, "id", 1.0, 2.0)
    found = denied(ask, Refused(429, "queue_ttl", "m"), "ns/p", GOLD, "target", 3.0).outcome
    assert (found.id, found.time, found.status, found.reason, found.queue) == ("id", 2.0, 429, "queue_ttl", 3.0)
    assert (found.objective, found.priority, found.target_model, found.request_bytes) == ("gold", 10, "target", 7)
    assert denied(ask, Refused(503, "no_endpoints", "m")).outcome.queue is None  # it did not wait


def test_a_name_that_nobody_knows_is_none() -> None:
    objectives = (Objective("bulk", -1, ("n",)), GOLD)
    assert objective_of(objectives, InferenceRequest("/", model="m", objective="bulk")).name == "bulk"
    assert objective_of(objectives, InferenceRequest("/", model="n", objective="nobody")).name == "bulk"
    assert objective_of(objectives, InferenceRequest("/", model="x", objective="nobody")) is None

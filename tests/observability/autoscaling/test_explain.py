"""Explain: the document and its text, for pools that are busy, stale, and empty."""

import json

from observability.autoscaling.explain import document, retargeted, text
from observability.autoscaling.signals import SIGNALS, read
from tests.picker.test_demand import demand, figures

BUSY = document(
    read(
        demand(
            figures(
                waiting=4.0, running=4.0, inflight=9, kv_usage=0.4, slots=4.0, prefill=1000.0, seen=9.0, tokens=500.0
            ),
            figures(pod="10.0.0.2", known=False, age=30.0),
            queued=2,
            queued_tokens=1500.0,
        )
    ),
    2,
)


def test_the_document_is_plain_and_whole() -> None:
    assert json.loads(json.dumps(BUSY)) == BUSY
    assert list(BUSY["signals"]) == list(SIGNALS)
    assert (BUSY["pods"], BUSY["active"], BUSY["age_seconds"], BUSY["gateway_replicas"]) == (2, True, 1.0, 2)
    backlog = BUSY["signals"]["token-backlog-seconds"]
    assert backlog["value"] == sum(backlog["parts"][name] for name in ("prefill seconds", "decode seconds"))


def test_the_text_says_what_an_autoscaler_would_do_and_why() -> None:
    shown = text(BUSY)
    assert "pool ns/pool: 2 pods, at work, oldest figure 1.0 s old, 2 gateway replicas asked" in shown
    assert "queue                         10       1  AverageValue  2 -> 10" in shown
    assert "stale: counts as the fullest of its peers" in shown
    assert "penstock_pool_token_backlog_seconds" in shown
    assert max(map(len, shown.splitlines())) <= 180


def test_what_is_not_known_keeps_the_size() -> None:
    shown = text(document(read(demand(figures(known=False, age=42.0)))))
    (line,) = [each for each in shown.splitlines() if each.startswith("saturation")]
    assert "unknown" in line and "keep 1" in line and "one said nothing for 42 s" in line
    assert "never" in text(document(read(demand(figures(known=False, age=None)))))


def test_an_empty_pool() -> None:
    shown = text(document(read(demand())))
    assert "pool ns/pool: 0 pods, idle, nothing was scraped" in shown
    assert "at zero, and nobody waits" in shown


def test_other_targets_and_sizes() -> None:
    found = retargeted(BUSY, {"queue": 5.0}, replicas=1)
    assert (found["signals"]["queue"]["hpa"], found["pods"]) == (2, 1)
    assert found["signals"]["saturation"]["target"] == BUSY["signals"]["saturation"]["target"]
    assert retargeted(BUSY, {}) == BUSY

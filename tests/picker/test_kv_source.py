"""Where servers publish their KV events: the pool's annotation, and the plugin of llm-d."""

from dataclasses import replace

import pytest

from picker.errors import ConfigError
from picker.kv_source import KvSource, of_pool
from picker.profile import read
from tests.picker._views import pool_of

PLUGIN = "precise-prefix-cache-producer"


def configured(**parameters: object) -> tuple[KvSource | None, tuple[str, ...]]:
    profile = read({"plugins": [{"type": PLUGIN, "parameters": parameters}]})
    return profile.kv_events, profile.notes


def test_the_annotation_goes_before_the_configuration() -> None:
    pool = pool_of()
    assert of_pool(None, pool) is None
    assert of_pool(KvSource(5557, "kv@"), pool) == KvSource(5557, "kv@")
    assert of_pool(KvSource(5557, "kv@"), replace(pool, kv_events=0)) == KvSource(0, "kv@")
    assert of_pool(None, replace(pool, kv_events=7000)) == KvSource(7000)


def test_the_plugin_of_llm_d_turns_it_on() -> None:
    assert configured() == (KvSource(5557), ())
    events = {"topicFilter": "kv@", "podDiscoveryConfig": {"socketPort": 6000, "replayPort": 7000}}
    assert configured(kvEventsConfig=events) == (KvSource(6000, "kv@", 7000), ())


def test_what_has_no_effect_is_said() -> None:
    source, notes = configured(tokenProcessorConfig={"blockSize": 64}, kvEventsConfig={"concurrency": 4})
    assert source == KvSource(5557)
    assert "tokenProcessorConfig, kvEventsConfig.concurrency: no effect" in notes[0]


def test_servers_do_not_connect_to_us() -> None:
    source, notes = configured(kvEventsConfig={"zmqEndpoint": "tcp://0.0.0.0:5557"})
    assert source is None
    assert "servers do not connect here" in notes[0]


def test_a_misspelt_parameter_is_an_error() -> None:
    with pytest.raises(ConfigError, match="socketport"):
        configured(kvEventsConfig={"podDiscoveryConfig": {"socketport": 1}})

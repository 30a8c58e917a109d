"""precise-prefix-cache-producer: where the servers publish their KV events.

Source: llm-d router, pkg/kvevents (kvEventsConfig). Of its parameters those that say where are used; keys, blocks and memory are
a matter of this picker.
"""

from picker.kv_source import KvSource
from picker.plugins.parameters import Parameters

KIND = "precise-prefix-cache-producer"
_PORT = 5557  # llm-d's default, and vLLM's
_OWN = ("tokenProcessorConfig", "indexerConfig", "speculativeIndexing", "speculativeTTL")
_EVENTS_OWN = ("concurrency", "engineType", "discoverPods")


def read(given: Parameters, notes: list[str]) -> KvSource | None:
    """Where to listen, or None; what is done in another way becomes a note."""
    unread = [name for name in _OWN if given.take(name) is not None]
    events = given.child("kvEventsConfig")
    unread += [f"kvEventsConfig.{name}" for name in _EVENTS_OWN if events.take(name) is not None]
    topic, bound = events.text("topicFilter"), events.text("zmqEndpoint")
    pods = events.child("podDiscoveryConfig")
    port = pods.integer("socketPort", _PORT, 1, 65535)
    replay = pods.integer("replayPort", 0, 0, 65535)
    unread += [
        f"kvEventsConfig.podDiscoveryConfig.{name}"
        for name in ("podLabelSelector", "podNamespace")
        if pods.take(name) is not None
    ]
    pods.finish()
    events.finish()
    given.finish()
    if unread:
        notes.append(f"{given.where}: {', '.join(unread)}: no effect, this picker has its own way")
    if bound:
        notes.append(
            f"{given.where}: kvEventsConfig.zmqEndpoint: servers do not connect here; prefixes are approximated until it is "
            "removed, and each server publishes on a port of its own"
        )
        return None
    return KvSource(port, topic, replay)

"""Explain: what each signal of a pool says, the figures behind it, and what an autoscaler would make of it. Pure.

`document` is what the telemetry server answers at /autoscale?pool=NS/NAME; `text` is what `penstock autoscale explain` prints of it.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from observability.autoscaling.signals import SIGNALS, Known, Readings, Signal, default_target, hpa

Document = Mapping[str, Any]


def document(readings: Readings, replicas: int = 1) -> dict[str, Any]:
    """Plain data. `replicas` of the gateway were asked."""
    demand = readings.demand
    return {
        "pool": demand.pool,
        "pods": demand.pods,
        "active": demand.active,
        "age_seconds": readings.age,
        "gateway_replicas": replicas,
        "signals": {name: _signal(signal, readings) for name, signal in SIGNALS.items()},
        "endpoints": {name: asdict(each) for name, each in sorted(demand.endpoints.items())},
    }


def _signal(signal: Signal, readings: Readings) -> dict[str, Any]:
    found, target = readings.values[signal.name], default_target(signal, readings.demand)
    shown = {"metric": signal.metric.name, "target_type": signal.type, "target": target, "meaning": signal.meaning}
    if not isinstance(found, Known):
        return {**shown, "value": None, "why": found.why, "parts": {}, "hpa": None}
    return {
        **shown,
        "value": found.value,
        "why": found.why,
        "parts": dict(found.parts),
        "hpa": hpa(signal, found.value, target, readings.demand.pods),
    }


def retargeted(found: Document, targets: Mapping[str, float], replicas: int | None = None) -> dict[str, Any]:
    """The document with other targets, or another size: what an autoscaler wants then."""
    size = found["pods"] if replicas is None else replicas
    signals = {}
    for name, each in found["signals"].items():
        target, value = targets.get(name, each["target"]), each["value"]
        signal = SIGNALS.get(name)
        wants = each["hpa"] if signal is None or value is None else hpa(signal, value, target, size)
        signals[name] = {**each, "target": target, "hpa": wants}
    return {**found, "pods": size, "signals": signals}


def text(found: Document) -> str:
    """For people: a table of signals, what is behind them, and the endpoints."""
    pods, age = found["pods"], found["age_seconds"]
    fresh = f"oldest figure {age:.1f} s old" if age is not None else "nothing was scraped"
    asked = _count(found["gateway_replicas"], "gateway replica")
    lines = [
        f"pool {found['pool']}: {_count(pods, 'pod')}, {'at work' if found['active'] else 'idle'}, {fresh}, {asked} asked",
        "",
        _row("signal", "value", "target", "type", "HPA wants", "because"),
    ]
    for name, each in found["signals"].items():
        value = "unknown" if each["value"] is None else _number(each["value"])
        wants = f"keep {pods}" if each["hpa"] is None else _change(each["hpa"], pods)
        lines.append(_row(name, value, _number(each["target"]), each["target_type"], wants, each["why"]))
    for name, each in found["signals"].items():
        if each["parts"]:
            parts = ", ".join(f"{part} {_number(value)}" for part, value in each["parts"].items())
            lines.append(f"\n{name} ({each['metric']}): {each['meaning']}\n    {parts}")
    lines += ["", "endpoint                 waiting running in flight  KV  slots prefill tok/s   age"]
    for name, one in found["endpoints"].items():
        slots = "?" if one["slots"] is None else _number(one["slots"])
        prefill = "?" if one["prefill"] is None else f"{one['prefill']:.0f}"
        age = "never" if one["age"] is None else f"{one['age']:.1f} s"
        stale = "" if one["known"] else "  stale: counts as the fullest of its peers"
        lines.append(
            f"{name:24} {one['waiting']:7.0f} {one['running']:7.0f} {one['inflight']:9} {one['kv_usage']:4.0%} {slots:>5}"
            f" {prefill:>13} {age:>7}{stale}"
        )
    return "\n".join(lines)


def _row(name: str, value: str, target: str, kind: str, wants: str, why: str) -> str:
    return f"{name:22} {value:>9} {target:>7}  {kind:13} {wants:14} {why}".rstrip()


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _change(wants: int, pods: int) -> str:
    return f"{pods} -> {wants}" if wants != pods else f"keep {pods}"

"""Accelerators: how busy they are, as an exporter beside the model server or on its node says: NVIDIA's DCGM, and TPUs on GKE.

One more signal, and a coarse one: an accelerator that works on one small batch is as "busy" as one that is full. Source: DCGM
exporter 4 (its default counters, and the labels of DCGM_EXPORTER_KUBERNETES); GKE's TPU device plugin. Compare llm-d router 0.10,
`dcgm-extractor`: the same figure, of the pod's own accelerators, the busiest one.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from xds_server.model.graph import Endpoint

_QUOTED = rb'"([^"\\]*(?:\\.[^"\\]*)*)"'
_LABEL = re.compile(rb"([a-zA-Z_]\w*)\s*=\s*" + _QUOTED)
# Each: what it is called, and its largest value. The first that a page has; a duty cycle, where there is one.
_FAMILIES: tuple[tuple[bytes, float], ...] = (
    (b"DCGM_FI_DEV_GPU_UTIL", 100.0),
    (b"DCGM_FI_PROF_GR_ENGINE_ACTIVE", 1.0),
    (b"duty_cycle", 100.0),
    (b"tpu_duty_cycle", 100.0),
    (b"tensorcore_utilization", 100.0),
    (b"duty_cycle_node", 100.0),
    (b"tensorcore_utilization_node", 100.0),
)
_SAMPLE = re.compile(
    rb"^(" + b"|".join(re.escape(name) for name, _ in _FAMILIES) + rb")"
    rb'(?:\{([^"}\n]*(?:"[^"\\\n]*(?:\\.[^"\\\n]*)*"[^"}\n]*)*)\})?[ \t]+([^\s]+)',
    re.MULTILINE,
)
_POD, _NAMESPACE = (b"pod", b"pod_name", b"exported_pod"), (b"namespace", b"pod_namespace", b"exported_namespace")


@dataclass(frozen=True, slots=True)
class Busy:
    """What one exporter says: figures in [0, 1], by (namespace, pod); ("", "") where it does not say whose they are."""

    figures: Mapping[tuple[str, str], Sequence[float]] = field(default_factory=dict)

    def of(self, namespace: str, endpoint: Endpoint) -> float | None:
        """The busiest accelerator of this pod; None where nothing is said of it.

        An exporter of a node names pods. One that names none is the pod's own.
        """
        found, pod = self.figures, endpoint.pod
        named = found.get((namespace, pod)) or found.get(("", pod)) if pod else None
        if named is None and all(not name for _, name in found):
            named = found.get(("", ""))
        return max(named) if named else None


def parse(page: bytes) -> Busy:
    """One page in the Prometheus text format; what it does not have is empty."""
    samples: dict[bytes, list[tuple[dict[bytes, str], float]]] = {}
    for name, labels, value in _SAMPLE.findall(page):
        figure = _number(value)
        if figure is not None:
            found = {key: text.decode(errors="replace") for key, text in _LABEL.findall(labels)}
            samples.setdefault(name, []).append((found, figure))
    family, most = next((each for each in _FAMILIES if each[0] in samples), (b"", 1.0))
    figures: dict[tuple[str, str], list[float]] = {}
    for whose, figure in samples.get(family, ()):
        figures.setdefault(_whose(whose), []).append(min(figure / most, 1.0))
    return Busy(figures)


def _whose(labels: Mapping[bytes, str]) -> tuple[str, str]:
    pod = next((labels[name] for name in _POD if labels.get(name)), "")
    return (next((labels[name] for name in _NAMESPACE if labels.get(name)), "") if pod else "", pod)


def _number(text: bytes) -> float | None:
    try:
        found = float(text)
    except ValueError:
        return None
    return found if math.isfinite(found) and found >= 0.0 else None

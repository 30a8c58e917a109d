"""What scheduling is made of: a Profile, which says how one stage picks, and the Pick that comes of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from picker import limits, scorers as functions
from picker.kv_source import KvSource
from picker.limits import Limits
from picker.plugins.admitters import Shed
from picker.plugins.flow_control import Thresholds
from picker.plugins.own import Guarded
from picker.scorers import Filter, Picker, Scorer, View
from xds_server.model.exporter import Exporter


@dataclass(frozen=True, slots=True)
class Pick:
    endpoints: tuple[str, ...]  # best first; never empty
    candidates: int  # that passed the filters
    matched: int  # tokens of the prompt that the best one has cached
    headers: tuple[tuple[str, str], ...] = ()  # to send with the request; "" takes away what the client sent
    beside: tuple[str, ...] = ()  # endpoints that work on the same prompt: prefill workers


@dataclass(frozen=True, slots=True)
class Profile:
    filters: tuple[tuple[str, Filter], ...] = (("lora-filter", functions.lora_filter),)
    scorers: tuple[tuple[str, Scorer, float], ...] = ()  # (name, function, weight)
    picker: Picker = field(default_factory=functions.max_score_picker)
    thresholds: Thresholds = Thresholds()
    notes: tuple[str, ...] = ()  # settings that have no effect here, and why
    handler: "Handler | None" = None  # picks in several stages, each a Profile of its own
    after: "tuple[After, ...]" = ()  # told where each request went
    limits: Limits = limits.DEFAULT  # of flow control
    shed: Shed | None = None  # whom to refuse of negative priority, beside flow control
    exporter: Exporter | None = None  # of the accelerators
    kv_events: KvSource | None = None  # where servers publish what they have cached
    guarded: tuple[Guarded, ...] = ()  # the user's own scorers, which may have problems
    name: str = ""  # in its file

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong with the user's own scorers."""
        return tuple(one.problem for one in self.guarded if one.problem)


@runtime_checkable
class Learns(Protocol):
    """A filter or scorer that wants to know where requests went: what it says does not depend on the View alone."""

    def after(self, view: View, endpoints: tuple[str, ...], /) -> None: ...


Run = Callable[[View, Profile, str], Pick]  # one stage: schedule.run
Handler = Callable[[View, str, Run], Pick]  # (all candidates, request id, how to run a stage)
After = Callable[[View, tuple[str, ...]], None]  # (all candidates, endpoints that work on the prompt, the best first)

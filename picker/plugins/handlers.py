"""Profile handlers and deciders, by llm-d's names: which profiles run for a request, and which headers tell the servers.

Source: llm-d router 0.10, profilehandler/{disagg,dataparallel,headerprofile}; the sidecar beside a decode worker reads the headers.
Differences: a worker that cannot be found is done without, never a failed request; and a worker is never told to ask itself.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from picker.errors import ConfigError, NoEndpoint
from picker.plugins.parameters import Parameters
from picker.plugins.pickers import FALLBACKS
from picker.ranks import host_port
from picker.scorers import View
from picker.stage import Handler, Pick, Profile, Run

PREFILL_HEADER = "x-prefiller-host-port"
ENCODE_HEADER = "x-encoder-hosts-ports"
RANK_HEADER = "x-data-parallel-host-port"
PROFILE_HEADER = "epp-profile"

Decider = Callable[[View, int | None], bool]  # (all candidates, the decode endpoint's index) -> whether to use a worker


@dataclass(frozen=True, slots=True)
class Stages:
    """What a handler is made of: the file's profiles and deciders, by name. A profile is made for how many endpoints it gives."""

    profiles: "Mapping[str, Callable[[int], Profile]]"
    deciders: Mapping[str, Decider]


# Of a file: the profile whose pick is the destination, and how the others take part (None: not at all).
Plan = Callable[[Stages], "tuple[Profile, Handler | None]"]


# --- deciders ---------------------------------------------------------------------------------------------------------


def _prefix_based(given: Parameters) -> Decider:
    """A prefill worker is worth its transfer only when enough of the prompt is not cached at the decode worker."""
    uncached, least = given.integer("nonCachedTokens", 0), given.integer("promptTokens", 0)

    def decide(view: View, decode: int | None) -> bool:
        tokens = view.request.prompt_tokens
        if not uncached or tokens < least or decode is None:
            return False
        return tokens - view.matched[decode] >= uncached

    return decide


DECIDERS: Mapping[str, Callable[[Parameters], Decider]] = {
    "prefix-based-pd-decider": _prefix_based,
    "always-disagg-pd-decider": lambda _: lambda _view, _decode: True,
    "always-disagg-multimodal-decider": lambda _: lambda view, _decode: bool(view.request.media),
}


# --- prefill and encode workers ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Disaggregation:
    """One request over two or three workers. The decode worker is the destination, the others are told to it by header."""

    decode: Profile
    prefill: Profile | None
    encode: Profile | None
    use_prefill: Decider
    use_encode: Decider
    prefill_first: bool = False

    def __call__(self, view: View, request_id: str, run: Run) -> Pick:
        """See profile.Handler."""
        if self.prefill_first:
            prefill = self._workers(self.prefill, view, request_id, run)[:1]
            peer = view.endpoints[view.names.index(prefill[0])] if prefill else None
            found = run(replace(view, peer=peer), self.decode, request_id)
            decode = view.names.index(found.endpoints[0])
        else:
            found = run(view, self.decode, request_id)
            decode = view.names.index(found.endpoints[0])
            beside = replace(view, peer=view.endpoints[decode])
            wanted = self.prefill if self.use_prefill(view, decode) else None
            prefill = self._workers(wanted, beside, request_id, run)[:1]
        encode = self._workers(self.encode if self.use_encode(view, decode) else None, view, request_id, run)
        told = [host_port(worker) for worker in prefill]  # which of its ranks is left to the worker
        if told == [host_port(found.endpoints[0])]:  # it has both roles: what it would fetch from itself it computes
            prefill, told = (), []
        headers = [(PREFILL_HEADER, ",".join(told))]  # an empty value takes a client's own away
        if self.encode is not None:
            headers.append((ENCODE_HEADER, ",".join(dict.fromkeys(map(host_port, encode)))))
        return replace(found, headers=(*found.headers, *headers), beside=(*prefill, *encode))

    @staticmethod
    def _workers(profile: Profile | None, view: View, request_id: str, run: Run) -> tuple[str, ...]:
        if profile is None:
            return ()
        try:
            return run(view, profile, request_id).endpoints
        except NoEndpoint:  # the decode worker does it all
            return ()


def _never(_view: View, _decode: int | None) -> bool:
    return False


def _disaggregated(given: Parameters) -> Plan:
    """Nested parameters, or the flat ones of earlier releases."""
    profiles, deciders = given.child("profiles"), given.child("deciders")
    order = given.text("stageOrder").lower().replace("-", "").replace("_", "")
    if order not in ("", "decodefirst", "decode", "prefillfirst", "prefill"):
        raise given.error("stageOrder", "must be decode-first or prefill-first")
    flat = {stage: given.text(f"{stage}Profile") for stage in ("decode", "prefill", "encode")}
    names = {stage: profiles.text(stage) or flat[stage] or stage for stage in flat}
    old = given.text("prefillDeciderPluginName") or given.text("deciderPluginName")
    given.text("deciderPluginName")
    prefill, encode = deciders.text("prefill") or old, deciders.text("encode") or given.text("encodeDeciderPluginName")
    profiles.finish()
    deciders.finish()
    prefill_first = order.startswith("prefill")
    if prefill_first and prefill:
        raise given.error("deciders.prefill", "has no meaning with stageOrder prefill-first; remove one of both")
    return _plan(given.where, names, prefill, encode, prefill_first=prefill_first)


def _prefill_decode(given: Parameters) -> Plan:
    """pd-profile-handler, deprecated: decode and prefill, with a decider that is always there."""
    given.producer("prefixPluginType", "prefixPluginName", "prefixMatchInfoProducerName")
    given.integer("primaryPort", 0, 0, 65535)  # every rank is an endpoint of its own here
    names = {stage: given.text(f"{stage}Profile", stage) for stage in ("decode", "prefill")}
    return _plan(given.where, names, given.text("deciderPluginName", "prefix-based-pd-decider"), "")


def _plan(where: str, names: Mapping[str, str], prefill: str, encode: str, *, prefill_first: bool = False) -> Plan:
    def stage(stages: Stages, name: str) -> Profile | None:
        made = stages.profiles.get(name)
        return None if made is None else made(1)

    def build(stages: Stages) -> "tuple[Profile, Handler]":
        for decider in (prefill, encode):
            if decider and decider not in stages.deciders:
                raise ConfigError(f"{where}.deciders", f"{decider!r} is no decider of the file; add it to `plugins`")
        made = stages.profiles.get(names["decode"])
        if made is None:
            raise ConfigError(where, f"there is no profile {names['decode']!r}; add it to `schedulingProfiles`")
        decode = made(FALLBACKS)
        return decode, Disaggregation(
            decode,
            stage(stages, names["prefill"]),
            stage(stages, names.get("encode", "")),
            stages.deciders[prefill] if prefill else _never,
            stages.deciders[encode] if encode else _never,
            prefill_first,
        )

    return build


# --- one stage --------------------------------------------------------------------------------------------------------


def only(stages: Stages, where: str) -> Profile:
    """The one profile that there is. Raises ConfigError."""
    if len(stages.profiles) != 1:
        raise ConfigError(
            where,
            "there must be exactly one; for several use the plugin disagg-profile-handler or header-profile-handler",
        )
    return next(iter(stages.profiles.values()))(FALLBACKS)


def single(_given: Parameters) -> Plan:
    """Also where the file names no handler."""
    return lambda stages: (only(stages, "schedulingProfiles"), None)


def _data_parallel(given: Parameters) -> Plan:
    """The header names the rank, as the sidecar of llm-d's data parallel pods wants it.

    llm-d sends the request to the pod's primary port; here the rank's own port is an endpoint and the destination. A fallback on
    another pod would meet a sidecar that does not know the rank of the header (400), so there is none.
    """
    given.integer("primaryPort", 8000, 0, 65535)

    def build(stages: Stages) -> "tuple[Profile, Handler]":
        profile = only(stages, "schedulingProfiles")

        def handle(view: View, request_id: str, run: Run) -> Pick:
            found = run(view, profile, request_id)
            best = found.endpoints[0]
            return replace(found, endpoints=(best,), headers=((RANK_HEADER, host_port(best)),))

        return profile, handle

    return build


def _by_header(given: Parameters) -> Plan:
    """The client names the profile; an unknown name is refused, never guessed."""
    header = given.text("headerName").strip().lower() or PROFILE_HEADER
    default = given.text("defaultProfile").strip() or "decode"

    def build(stages: Stages) -> "tuple[Profile, Handler | None]":
        profiles = {name: made(FALLBACKS) for name, made in stages.profiles.items()}
        if len(profiles) == 1:
            return next(iter(profiles.values())), None
        if default not in profiles:
            raise given.error("defaultProfile", f"there is no profile {default!r}; name one of {', '.join(profiles)}")

        def handle(view: View, request_id: str, run: Run) -> Pick:
            name = view.request.headers.get(header, "") or default
            if name not in profiles:
                raise NoEndpoint(f"the header {header} names no profile; known: {', '.join(profiles)}")
            return run(view, profiles[name], request_id)

        return profiles[default], handle

    return build


HANDLERS: Mapping[str, Callable[[Parameters], Plan]] = {
    "single-profile-handler": single,
    "disagg-profile-handler": _disaggregated,
    "pd-profile-handler": _prefill_decode,
    "data-parallel-profile-handler": _data_parallel,
    "header-profile-handler": _by_header,
}

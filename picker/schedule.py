"""Scheduling: candidates, filters, scores, pick. Source: endpoint-picker protocol, Gateway API Inference Extension 004."""

from collections.abc import Sequence

from picker import ranks
from picker.errors import NoEndpoint
from picker.health import healthy
from picker.scorers import View
from picker.stage import Pick, Profile, Run
from xds_server.model.graph import Endpoint


def hinted(endpoints: Sequence[Endpoint], hint: tuple[str, ...] | None) -> list[Endpoint]:
    """Those of the gateway's subset: entries are `ip:port` or `ip`; None is the whole pool, and an empty one is nothing at all.

    Raises NoEndpoint.
    """
    if not endpoints:
        raise NoEndpoint("the pool has no ready endpoint")
    found = list(endpoints)
    if hint is not None:
        wanted = {entry.strip() for entry in hint}
        found = [
            one
            for one in endpoints
            if one.host_port in wanted or one.address in wanted or f"[{one.address}]" in wanted or str(one) in wanted
        ]
        if not found:
            raise NoEndpoint("the gateway's subset hint names no ready endpoint of the pool")
    return found


def fresh(endpoints: list[Endpoint]) -> list[Endpoint]:
    """A pod that is terminating still serves, but gets new requests only while nobody else is left."""
    return [one for one in endpoints if not one.draining] or endpoints


def run(view: View, profile: Profile, request_id: str) -> Pick:
    """The candidates that pass every filter, best first, as many as the profile's picker gives. Raises NoEndpoint."""
    view = _filtered(view, profile)
    totals = [0.0] * len(view.names)
    for _, scorer, weight in profile.scorers:
        scores = scorer(view)
        if len(profile.scorers) == 1 and weight == 1.0:
            totals = scores
        else:
            totals = [total + weight * score for total, score in zip(totals, scores, strict=True)]
    chosen = ranks.chosen(profile.picker, view, totals, request_id)
    return Pick(tuple([view.names[i] for i in chosen]), len(view.names), view.matched[chosen[0]])


def pick(view: View, profile: Profile, request_id: str, stage: Run = run) -> Pick:
    """What the profile decides, through its handler where it has several stages. Raises NoEndpoint.

    Ties break on the request id, so equal inputs give equal picks. Endpoints that rest are no candidates while others are.
    `stage` picks for one stage.
    """
    view = rested(view, profile)
    handler = profile.handler
    found = stage(view, profile, request_id) if handler is None else handler(view, request_id, stage)
    for tell in profile.after:
        tell(view, (found.endpoints[0], *found.beside))
    return found


def rested(view: View, profile: Profile) -> View:
    """Without those that rest; with all of them where only they pass the filters, as the one decode worker of a pool with roles."""
    found = view.only(healthy(view.loads, view.now))
    if len(found.names) == len(view.names):
        return view
    try:
        _filtered(found, profile)
    except NoEndpoint:
        return view
    return found


def _filtered(view: View, profile: Profile) -> View:
    for name, keep in profile.filters:
        if view.names:
            view = view.only(keep(view))
            if not view.names:
                raise NoEndpoint(f"the filter {name!r} lets no endpoint pass")
    if not view.names:
        raise NoEndpoint("the pool has no ready endpoint")
    return view

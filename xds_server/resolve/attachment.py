"""Attachment: which listeners a route's parentRef reaches, and why not.

Source: Gateway API 1.7 ParentReference, AllowedRoutes and the hostname intersection of HTTPRoute.spec.hostnames. The three
questions are asked in the order of the reasons: the parent, its permission, the hostnames. Cases: test_resolve_attachment.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from xds_server.model.objects import Gateway, HTTPRoute, ObjectRef, ParentRef
from xds_server.resolve import conditions as c
from xds_server.resolve.context import Context
from xds_server.resolve.hostnames import intersections
from xds_server.resolve.listeners import HTTP_ROUTE, BoundListener
from xds_server.resolve.references import Denied


@dataclass(frozen=True, slots=True)
class Attachment:
    """One parentRef of one route: the listeners that take it, or the reason why none does."""

    index: int  # in spec.parentRefs
    parent: ParentRef
    listeners: tuple[BoundListener, ...]
    denied: Denied | None = None


def attach(
    route: HTTPRoute, listeners: Mapping[ObjectRef, Sequence[BoundListener]], context: Context
) -> list[Attachment]:
    """Every parentRef that names one of our Gateways; the others are another controller's."""
    found = []
    for index, parent in enumerate(route.parents):
        if parent.ref in listeners:
            taken = attach_parent(route, parent, listeners[parent.ref], context)
            if isinstance(taken, Denied):
                found.append(Attachment(index, parent, (), taken))
            else:
                found.append(Attachment(index, parent, taken))
    return found


def attach_parent(
    route: HTTPRoute, parent: ParentRef, listeners: Sequence[BoundListener], context: Context
) -> tuple[BoundListener, ...] | Denied:
    """The listeners of one Gateway that take the route."""
    named = [each for each in listeners if _named(parent, each)]
    if not named:
        return Denied(c.NO_MATCHING_PARENT, _nothing_named(parent, listeners))
    allowed = [each for each in named if _allowed(route, each, context)]
    if not allowed:
        asked = ", ".join(repr(each.listener.name) for each in named)
        what = f"listener {asked} of {parent.ref} takes no HTTPRoute from namespace {route.meta.namespace}"
        return Denied(c.NOT_ALLOWED_BY_LISTENERS, f"{what}; see allowedRoutes of the listener")
    own = [hostname.lower() for hostname in route.hostnames]
    matching = tuple(each for each in allowed if intersections(each.hostname, own))
    if not matching:
        held = ", ".join(dict.fromkeys(each.hostname for each in allowed))
        what = f"no hostname of the route ({', '.join(own)}) is one of the listeners' ({held})"
        return Denied(c.NO_MATCHING_LISTENER_HOSTNAME, f"{what}; change spec.hostnames or the listener's hostname")
    return matching


def _named(parent: ParentRef, bound: BoundListener) -> bool:
    return parent.section in ("", bound.listener.name) and parent.port in (0, bound.listener.port)


def _nothing_named(parent: ParentRef, listeners: Sequence[BoundListener]) -> str:
    asked = [f"named {parent.section!r}"] if parent.section else []
    asked += [f"on port {parent.port}"] if parent.port else []
    held = ", ".join(f"{each.listener.name!r} on port {each.listener.port}" for each in listeners) or "none"
    return f"{parent.ref} has no listener {' '.join(asked) or 'at all'}; its listeners are {held}"


def _allowed(route: HTTPRoute, bound: BoundListener, context: Context) -> bool:
    if HTTP_ROUTE not in bound.kinds:
        return False
    gateway: Gateway = bound.gateway
    allowed = bound.listener.allowed
    match allowed.namespaces:
        case "All":
            return True
        case "Same":
            return route.meta.namespace == gateway.meta.namespace
    return allowed.selector.matches(context.labels_of(route.meta.namespace))

"""Attachment: which listeners a route's parentRef reaches, and why not.

Source: Gateway API 1.7 ParentReference, AllowedRoutes and the hostname intersection of HTTPRoute.spec.hostnames. The three
questions are asked in the order of the reasons: the parent, its permission, the hostnames. Cases: test_resolve_attachment.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from xds_server.model.objects import AnyRoute, ObjectRef, ParentRef
from xds_server.resolve import conditions as c
from xds_server.resolve.context import Context
from xds_server.resolve.hostnames import intersections
from xds_server.resolve.listener_sets import Parent
from xds_server.resolve.listeners import BoundListener
from xds_server.resolve.references import Denied


@dataclass(frozen=True, slots=True)
class Attachment:
    """One parentRef of one route: the listeners that take it, or the reason why none does."""

    index: int  # in spec.parentRefs
    parent: ParentRef
    gateway: ObjectRef  # whose parent it is, or whose ListenerSet
    listeners: tuple[BoundListener, ...]
    denied: Denied | None = None


def attach(route: AnyRoute, parents: Mapping[ObjectRef, Parent], context: Context) -> list[Attachment]:
    """Every parentRef that names a Gateway or ListenerSet of ours; the others are another controller's."""
    found = []
    for index, asked in enumerate(route.parents):
        if parent := parents.get(asked.ref):
            gateway = parent.gateway.meta.ref
            taken = attach_parent(route, asked, parent, context)
            if isinstance(taken, Denied):
                found.append(Attachment(index, asked, gateway, (), taken))
            else:
                found.append(Attachment(index, asked, gateway, taken))
    return found


def attach_parent(
    route: AnyRoute, asked: ParentRef, parent: Parent, context: Context
) -> tuple[BoundListener, ...] | Denied:
    """The listeners of one parent that take the route; a Gateway's are its own, never those of its ListenerSets."""
    if parent.denied:
        return Denied(c.NO_MATCHING_PARENT, f"{asked.ref} is not accepted: {parent.denied.message}")
    named = [each for each in parent.listeners if _named(asked, each)]
    if not named:
        return Denied(c.NO_MATCHING_PARENT, _nothing_named(asked, parent.listeners))
    allowed = [each for each in named if _allowed(route, each, context)]
    if not allowed:
        held = ", ".join(repr(each.listener.name) for each in named)
        what = f"listener {held} of {asked.ref} takes no {route.meta.ref.kind} from namespace {route.meta.namespace}"
        return Denied(c.NOT_ALLOWED_BY_LISTENERS, f"{what}; see protocol and allowedRoutes of the listener")
    own = [hostname.lower() for hostname in route.hostnames]
    matching = tuple(each for each in allowed if intersections(each.hostname, own))
    if not matching:
        held = ", ".join(dict.fromkeys(each.hostname for each in allowed))
        what = f"no hostname of the route ({', '.join(own)}) is one of the listeners' ({held})"
        return Denied(c.NO_MATCHING_LISTENER_HOSTNAME, f"{what}; change spec.hostnames or the listener's hostname")
    return matching


def _named(asked: ParentRef, bound: BoundListener) -> bool:
    return asked.section in ("", bound.listener.name) and asked.port in (0, bound.listener.port)


def _nothing_named(asked: ParentRef, listeners: tuple[BoundListener, ...]) -> str:
    wanted = [f"named {asked.section!r}"] if asked.section else []
    wanted += [f"on port {asked.port}"] if asked.port else []
    held = ", ".join(f"{each.listener.name!r} on port {each.listener.port}" for each in listeners) or "none"
    return f"{asked.ref} has no listener {' '.join(wanted) or 'at all'}; its listeners are {held}"


def _allowed(route: AnyRoute, bound: BoundListener, context: Context) -> bool:
    kind = route.meta.ref
    if (kind.group, kind.kind) not in bound.kinds:
        return False
    allowed = bound.listener.allowed
    match allowed.namespaces:
        case "All":
            return True
        case "Same":  # as who brings the listener: for a ListenerSet its own namespace, not its Gateway's
            return route.meta.namespace == bound.owner.meta.namespace
    return allowed.selector.matches(context.labels_of(route.meta.namespace))

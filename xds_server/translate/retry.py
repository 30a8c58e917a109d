"""When a request is tried again, and where.

A pool's request goes down the picker's list: another endpoint where none was reached (no connection, or it was closed before
anything was sent) or where the engine itself refused it (vLLM's queue cap answers 503 before it starts). Nothing is retried
after the first byte of an answer. A route's own policy also retries where a connection was lost or a try took too long. Source: Envoy `config.route.v3.RetryPolicy`; Gateway API GEP-1731.
"""

from collections.abc import Iterable
from datetime import timedelta

from envoy_data_plane.envoy.config.route.v3 import (
    HeaderMatcher,
    RetryPolicy,
    RetryPolicyRetryBackOff,
    RetryPolicyRetryHostPredicate,
    RetryPolicyRetryPriority,
)
from envoy_data_plane.envoy.extensions.retry.host.previous_hosts.v3 import PreviousHostsPredicate
from envoy_data_plane.envoy.extensions.retry.priority.previous_priorities.v3 import PreviousPrioritiesConfig

from xds_server.model.graph import Backend, Forward
from xds_server.model.names import PICKER_HEADER
from xds_server.translate.encode import pack

_NOT_REACHED = "connect-failure,refused-stream,reset-before-request"
_CONNECTION_ERRORS = "connect-failure,refused-stream,reset"  # a try that ran out of its time is one, too
_REFUSALS = (429, 503)
_FALLBACKS = 2  # the picker names three endpoints
_BACKOFF = RetryPolicyRetryBackOff(base_interval=timedelta(milliseconds=5), max_interval=timedelta(milliseconds=50))


def next_listener(policy: RetryPolicy | None, pools: Iterable[Backend]) -> RetryPolicy:
    """For routes to pools that are asked apart (`pool.py`): where a picker could not be asked, the next listener is; where
    other pools stand in, also after a refusal. `policy`: what the route has beside it.
    """
    found = policy or RetryPolicy(retry_back_off=_BACKOFF)
    stand_ins = max((len(each.failover) for each in pools), default=0)
    on = dict.fromkeys([*filter(None, found.retry_on.split(",")), "retriable-headers"])
    if stand_ins:
        on["retriable-status-codes"] = None
        found.retriable_status_codes = sorted({*found.retriable_status_codes, *_REFUSALS})
    found.retry_on = ",".join(on)
    found.retriable_headers = [HeaderMatcher(name=PICKER_HEADER, present_match=True)]
    found.num_retries = max(found.num_retries or 0, stand_ins, 1)
    found.retry_priority = RetryPolicyRetryPriority(
        name="envoy.retry_priorities.previous_priorities",
        typed_config=pack(PreviousPrioritiesConfig(update_frequency=1)),
    )
    return found


def retry_policy(action: Forward, *, pools: bool) -> RetryPolicy | None:
    """The route's own policy, else the one of pools whose picker is ours, else none."""
    if action.retry is None and not pools:
        return None
    policy = RetryPolicy(
        retry_on=f"{_NOT_REACHED if action.retry is None else _CONNECTION_ERRORS},retriable-status-codes",
        retriable_status_codes=[503] if action.retry is None else list(action.retry.codes),
        num_retries=_FALLBACKS if action.retry is None else action.retry.attempts,
        retry_host_predicate=[_previous_hosts()],
        host_selection_retry_max_attempts=3,
    )
    if action.timeouts.backend_request:
        policy.per_try_timeout = timedelta(seconds=action.timeouts.backend_request)
    if action.retry is None:
        policy.retry_back_off = _BACKOFF
    elif action.retry.backoff:
        policy.retry_back_off = RetryPolicyRetryBackOff(base_interval=timedelta(seconds=action.retry.backoff))
    return policy


def _previous_hosts() -> RetryPolicyRetryHostPredicate:
    return RetryPolicyRetryHostPredicate(
        name="envoy.retry_host_predicates.previous_hosts", typed_config=pack(PreviousHostsPredicate())
    )

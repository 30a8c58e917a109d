"""When a request is tried again, and where.

A pool's request goes down the picker's list: another endpoint where none was reached (no connection, or it was closed before
anything was sent) or where the engine itself refused it (vLLM's queue cap answers 503 before it starts). Nothing is retried
after the first byte of an answer. A route's own policy also retries where a connection was lost or a try took too long. Source: Envoy `config.route.v3.RetryPolicy`; Gateway API GEP-1731.
"""

from datetime import timedelta

from envoy_data_plane.envoy.config.route.v3 import RetryPolicy, RetryPolicyRetryBackOff, RetryPolicyRetryHostPredicate
from envoy_data_plane.envoy.extensions.retry.host.previous_hosts.v3 import PreviousHostsPredicate

from xds_server.model.graph import Forward
from xds_server.translate.encode import pack

_NOT_REACHED = "connect-failure,refused-stream,reset-before-request"
_CONNECTION_ERRORS = "connect-failure,refused-stream,reset"  # a try that ran out of its time is one, too
_FALLBACKS = 2  # the picker names three endpoints
_BACKOFF = RetryPolicyRetryBackOff(base_interval=timedelta(milliseconds=5), max_interval=timedelta(milliseconds=50))


def retry_policy(action: Forward, *, pools: bool) -> RetryPolicy | None:
    """The route's own policy, else the one of pools, else none."""
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

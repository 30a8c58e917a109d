"""Who may open a stream, and to which fleet it belongs: the one place that xDS, picker and access log ask.

    admission = Admission(review, fleet_of)
    serve(..., identify=admission)

A verified token costs a hash and a look-up; an unknown one a TokenReview, once for all streams that wait for it.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import grpc

from xds_server import identity
from xds_server.identity import Account, Verdict

log = logging.getLogger(__name__)
PATIENCE_S = 5.0  # with the API server
AT_ONCE = 16  # reviews: a flood of tokens must not become a flood of requests

Metadata = Iterable[tuple[str, str | bytes]]
Identify = Callable[[Metadata | None], Awaitable[str | None]]
Review = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]  # POST a TokenReview; the answer
FleetOf = Callable[[Account], str | None]  # the fleet whose Envoys run as this ServiceAccount


class Undecided(Exception):
    """The API server did not answer: neither yes nor no, try again."""


class Admission:
    """Call it with a stream's metadata: the key of the stream's fleet, or None, which means no. Raises Undecided."""

    def __init__(
        self,
        review: Review,
        fleet_of: FleetOf,
        *,
        audience: str = identity.AUDIENCE,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._review = review
        self._fleet_of = fleet_of
        self._audience = audience
        self._clock = clock  # seconds since 1970, as tokens count
        self._verdicts = identity.Verdicts()
        self._asking: dict[bytes, asyncio.Future[Account | None]] = {}
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def __call__(self, metadata: Metadata | None) -> str | None:
        token = identity.bearer(metadata)
        if not token:
            return None
        key, now = identity.key_of(token), self._clock()
        verdict = self._verdicts.get(key, now)
        if verdict is None or now >= verdict.recheck:  # else: the way of nearly every stream
            account = await self._checked(key, token, verdict, now)
        else:
            account = verdict.account
        return None if account is None else self._fleet_of(account)  # not remembered: Gateways come and go

    async def _checked(self, key: bytes, token: str, verdict: Verdict | None, now: float) -> Account | None:
        """Whose token it is; None for nobody's. Raises Undecided."""
        if key not in self._asking:
            return await self._ask(key, token, verdict, now)
        if verdict and verdict.account:
            return verdict.account  # somebody is asking again
        return await asyncio.shield(self._asking[key])

    async def _ask(self, key: bytes, token: str, verdict: Verdict | None, now: float) -> Account | None:
        found = identity.claims(token)
        if not identity.plausible(found, now, self._audience):
            log.warning("a stream was refused: its token is expired, or not for audience %s", self._audience)
            return None
        answer = self._asking[key] = asyncio.get_running_loop().create_future()
        try:
            account = await self._answered(key, token, verdict)
        except BaseException as error:
            answer.set_exception(error if isinstance(error, Undecided) else Undecided("whoever asked went away"))
            answer.exception()  # seen, though nobody else may wait
            raise
        finally:
            del self._asking[key]
        if not verdict or account != verdict.account:
            log.info("a token was %s", f"verified: {account}, pod {account.pod}" if account else "refused")
        if not answer.done():
            answer.set_result(account)
        return account

    async def _answered(self, key: bytes, token: str, verdict: Verdict | None) -> Account | None:
        try:
            async with asyncio.timeout(PATIENCE_S), self._slots:
                said = await self._review(identity.token_review(token, self._audience))
        except Exception as error:
            now = self._clock()
            if verdict and verdict.account:
                log.warning("the API server did not answer a TokenReview (%r): a verified token stays verified", error)
                self._verdicts.postpone(key, verdict, now)
                return verdict.account
            raise Undecided(f"no answer to a TokenReview: {error!r}") from error
        account = identity.reviewed(said, self._audience)
        self._verdicts.put(key, account, self._clock(), identity.expiry(identity.claims(token)))
        return account


async def admitted(context: Any, identify: Identify) -> str:
    """The fleet of a stream; a stream without one ends here."""
    metadata = context.invocation_metadata()
    try:
        fleet = await identify(metadata)
    except Undecided as error:
        await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
    if fleet:
        return fleet
    if any(key == "authorization" for key, _ in metadata or ()):
        await context.abort(
            grpc.StatusCode.PERMISSION_DENIED,
            "the token is not that of a Gateway's Envoy: expired, or of another account",
        )
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token: send a ServiceAccount's as authorization: Bearer")
    raise AssertionError("abort raises")

"""Lease: one leads; it stops before another starts; it gives the lease back."""

import asyncio
import time
from datetime import UTC, datetime

from tests.xds_server.kubernetes.fake_api import FakeApi, Refused
from tests.xds_server.kubernetes.helpers import Facts, certain, running
from xds_server.kubernetes.api import Api
from xds_server.kubernetes.election import Terms
from xds_server.kubernetes.facts import LeadershipChanged, LeaseFailed
from xds_server.kubernetes.lease import Leading, Lease

TERMS = Terms(duration=60.0, deadline=30.0, retry=0.001)


class Replica:
    def __init__(self, api: Api, identity: str, terms: Terms = TERMS) -> None:
        self.leading = Leading()
        self.facts = Facts()
        ticks = iter(range(10**9))  # every renewal has another time, as in life

        def wall() -> datetime:
            return datetime.fromtimestamp(next(ticks), UTC)

        self.lease = Lease(
            api, "system", "gateway", identity, self.leading, self.facts, terms=terms, wall=wall, chance=certain
        )

    async def until(self, leads: bool) -> None:
        async for leading in self.leading.values():
            if leading is leads:
                return


def holder(fake: FakeApi) -> str:
    return str(fake.get("leases", "gateway", "system")["spec"]["holderIdentity"])


async def test_the_first_leads_and_the_second_follows_when_it_leaves() -> None:
    fake = FakeApi()
    async with fake.serve() as api:
        one, two = Replica(api, "one"), Replica(api, "two")
        async with running(one.lease.run()):
            await one.until(leads=True)
            async with running(two.lease.run()) as tasks:
                asked = fake.count("get", "leases")
                await fake.until(lambda: fake.count("get", "leases") > asked + 10)
                assert two.leading.value is False and holder(fake) == "one"
                assert not tasks[0].done()
        assert one.leading.value is False and holder(fake) == ""
        async with running(two.lease.run()):
            await two.until(leads=True)
            assert holder(fake) == "two"
            assert fake.get("leases", "gateway", "system")["spec"]["leaseTransitions"] == 1
    assert [each.leading for each in two.facts.of(LeadershipChanged)][-2:] == [True, False]


async def test_one_that_died_is_succeeded_once_its_lease_stood_still() -> None:
    fake = FakeApi()
    spec = {"holderIdentity": "dead", "leaseDurationSeconds": 0.05, "renewTime": "then"}
    fake.put("leases", "gateway", "system", spec=spec)
    async with fake.serve() as api:
        heir = Replica(api, "heir")
        async with running(heir.lease.run()):
            await heir.until(leads=True)
    assert [each.leading for each in heir.facts.of(LeadershipChanged)] == [True, False]
    assert fake.count("get", "leases") > 1


async def test_who_cannot_renew_in_time_stops_leading_and_may_lead_again() -> None:
    fake = FakeApi()
    async with fake.serve() as api:
        replica = Replica(api, "one", Terms(duration=60.0, deadline=0.2, retry=0.001))
        async with running(replica.lease.run()):
            await replica.until(leads=True)
            released = fake.hang("get", plural="leases")
            await replica.until(leads=False)
            fake.before.clear()
            released.set()
            await replica.until(leads=True)
    assert replica.facts.of(LeaseFailed)[0].message == "no answer in time"


async def test_a_failure_now_and_then_costs_no_leadership() -> None:
    fake = FakeApi()
    async with fake.serve() as api:
        replica = Replica(api, "one")
        fake.fail(2, Refused(500, "InternalError"), "create", plural="leases")
        async with running(replica.lease.run()):
            await replica.until(leads=True)
            fake.fail(3, Refused(503, "ServiceUnavailable"), "get", plural="leases")
            fake.fail(3, Refused(409, "Conflict"), "patch", plural="leases")
            renewed = fake.count("patch", "leases")
            await fake.until(lambda: fake.count("patch", "leases") > renewed + 5)
            assert replica.leading.value is True
    assert [each.code for each in replica.facts.of(LeaseFailed)] == [500, 500, 503, 503, 503]


async def test_who_sees_another_s_name_stops_at_once() -> None:
    fake = FakeApi()
    async with fake.serve() as api:
        replica = Replica(api, "one")
        async with running(replica.lease.run()):
            await replica.until(leads=True)
            usurped = {"holderIdentity": "two", "leaseDurationSeconds": 60, "renewTime": "now"}
            fake.put("leases", "gateway", "system", spec=usurped)
            await replica.until(leads=False)
            await asyncio.sleep(0)
        assert holder(fake) == "two"  # what is not ours is not released


async def test_a_process_that_was_stopped_does_not_lead_for_a_moment_more() -> None:
    """Nothing has run since: not the renewal, and not what would have told the writers."""
    fake = FakeApi()
    async with fake.serve() as api:
        replica = Replica(api, "one", Terms(duration=60.0, deadline=0.2, retry=0.001))
        async with running(replica.lease.run()):
            await replica.until(leads=True)
            time.sleep(0.3)
            assert replica.leading.value is False
            await replica.until(leads=False)
            await replica.until(leads=True)  # the Lease is still ours
    assert [each.leading for each in replica.facts.of(LeadershipChanged)] == [True, False, True, False]


async def test_a_renewal_that_comes_after_the_time_was_over_tells_so() -> None:
    """By the clock it was over, but not by that of the loop, which is older: who asked meanwhile was told no, and must ask again."""
    fake = FakeApi()
    async with fake.serve() as api:
        replica = Replica(api, "one")
        async with running(replica.lease.run()):
            await replica.until(leads=True)
            told = replica.leading.version
            replica.leading.until = time.monotonic()
            assert replica.leading.value is False
            _, leads = await replica.leading.next(told)
            assert leads
    assert [each.leading for each in replica.facts.of(LeadershipChanged)] == [True, False, True, False]

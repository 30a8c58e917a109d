"""Everything that can end is ended once, under traffic: where the data plane is not touched no request fails, and afterwards a
change takes effect and its status is written.

    PENSTOCK_CONFORMANCE=1 python -m pytest tests/conformance/test_kill.py -s

In a cluster of its own, for it kills API servers; it says how long things took. See bench.py for what it needs.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conformance.bench import CLUSTER, NAMESPACE, accepted, bench
from tests.conformance.rig import SPACE, Pod, Rig, Traffic, until
from tests.conformance.traffic import Plan

VALUES = ("infrastructure.replicas=2", "infrastructure.workers=1", "infrastructure.drainSeconds=1")
CHAT = {"model": "base", "max_tokens": 8, "messages": [{"role": "user", "content": "What is a penstock?"}]}
OUTAGE = 3.0  # seconds that something is away
LEFT = {"KILL": 2.0, "gone": 2.0, "STOP": 8.0}  # how a picker ends -> seconds until it is asked no more


def _reason() -> str:
    if os.environ.get("PENSTOCK_CONFORMANCE") != "1":
        return "kills a cluster of its own: PENSTOCK_CONFORMANCE=1"
    if os.environ.get("KUBECONFIG"):
        return "the cluster that KUBECONFIG names is not ours to kill"
    return "" if CLUSTER.exists() else "no cluster: set PENSTOCK_CLUSTER to a program that makes one"


pytestmark = pytest.mark.skipif(bool(_reason()), reason=_reason() or "never")


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with bench(keep=os.environ.get("PENSTOCK_CONFORMANCE_KEEP") == "1", values=VALUES) as made:
        accepted(made, "penstock")
        made.kubectl("apply", "--server-side", "-f", str(Path(__file__).with_name("kill.yaml")))
        found = Rig(made, turns=int(time.time()))
        found.certificate("steady")
        found.all_ready()
        found.converged(found.turn())
        yield found


@pytest.fixture(autouse=True)
def whole(rig: Rig) -> None:
    """Each test starts with everything there."""
    rig.all_ready()
    rig.leader()


@contextmanager
def unharmed(rig: Rig, what: str) -> Iterator[Traffic]:
    """No request fails while the block lasts, and then a change takes effect."""
    with rig.traffic(_steady(rig)) as traffic:
        yield traffic
        effective, status = rig.converged(rig.turn())
    say(what, traffic, f"a change took effect after {effective} s, its status after {status} s")
    assert traffic.seen.right > 100
    assert not traffic.seen.wrong


def _steady(rig: Rig) -> Plan:
    address = rig.address("web")
    return Plan((f"http://{address}/", f"https://{address}/"), "steady.test", backend="echo-")


def say(what: str, traffic: Traffic, more: str = "") -> None:
    seen = traffic.seen
    print(f"\n{what}: {seen.right} right, {len(seen.wrong)} wrong, slowest {seen.slowest:.2f} s; {more}", flush=True)
    first = seen.wrong[0][0] if seen.wrong else 0.0
    for wrong in sorted({wrong for _, wrong in seen.wrong}):
        times = " ".join(f"{when - first:.1f}" for when, each in seen.wrong if each == wrong)
        print(f"    {wrong}\n    seconds after the first: {times[:400]}", flush=True)


# --- the API server ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("component", ["apiserver", "etcd"])
def test_the_api_is_away(rig: Rig, component: str) -> None:
    with unharmed(rig, f"{component} killed for {OUTAGE:.0f} s"):
        rig.kill(component)
        time.sleep(OUTAGE)
        rig.revive(component)


def test_a_change_at_the_first_moment_after_an_outage(rig: Rig) -> None:
    """Before we have reconnected: the watches resume where they were."""
    with unharmed(rig, "apiserver killed, a route changed at once"):
        rig.kill("apiserver")
        time.sleep(OUTAGE)
        rig.cluster("restart", "apiserver")
        rig.revive("apiserver")
        effective, status = rig.converged(rig.turn())
        print(f"\nin effect {effective} s after it was written, status after {status} s")


def test_changes_missed_and_compacted(rig: Rig) -> None:
    """Both controllers sleep while the history that their watches would resume from is thrown away: 410, and everything is read."""
    with unharmed(rig, "both controllers hung, 30 changes, history compacted"):
        controllers = rig.controllers()
        for pod in controllers:
            rig.signal(pod, "STOP")
        for _ in range(30):
            turn = rig.turn()
        rig.kill("apiserver")
        rig.compact()
        rig.revive("apiserver")
        for pod in controllers:
            rig.signal(pod, "CONT")
        effective, status = rig.converged(turn)
        print(f"\ncaught up {effective} s after they went on, status after {status} s")


def test_somebody_else_writes_the_same_status(rig: Rig) -> None:
    """Conflicts, one after the other: our entry is there in the end, and so is theirs."""
    condition = {"type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "observedGeneration": 1}
    with unharmed(rig, "a foreign controller writes the route's status"):
        for number in range(20):
            rig.turn()
            found = rig.get("httproute", "turning", "-n", SPACE)
            parents = [each for each in found["status"]["parents"] if each["controllerName"] != "else.test/where"]
            moment = {"lastTransitionTime": f"2026-01-01T00:00:{number:02}Z"}
            entry = {
                "controllerName": "else.test/where",
                "parentRef": {"name": "web"},
                "conditions": [condition | moment],
            }
            found["status"]["parents"] = [*parents, entry]
            rig.replace_status(found)
    parents = rig.get("httproute", "turning", "-n", SPACE)["status"]["parents"]
    assert sorted(each["controllerName"] for each in parents) == ["else.test/where", "penstock.dev/gateway-controller"]


# --- the controllers --------------------------------------------------------------------------------------------------


def test_the_leader_is_killed(rig: Rig) -> None:
    leader, holder = rig.leader(), rig.holder()
    with unharmed(rig, "leader killed"):
        began = time.monotonic()
        rig.signal(leader, "KILL")
        until(lambda: rig.holder() not in ("", holder), "another holder of the Lease")
        print(f"\nanother leads after {time.monotonic() - began:.1f} s")


def test_both_controllers_are_killed(rig: Rig) -> None:
    with unharmed(rig, "both controllers killed"):
        for pod in rig.controllers():
            rig.signal(pod, "KILL")
        time.sleep(OUTAGE)
        rig.all_ready()


def test_a_leader_hangs_and_goes_on(rig: Rig) -> None:
    """Longer than its Lease lasts: another leads meanwhile, and the one that wakes writes nothing."""
    leader, holder = rig.leader(), rig.holder()
    with unharmed(rig, "leader hung until another led, and went on"):
        rig.signal(leader, "STOP")
        try:
            until(lambda: rig.holder() not in ("", holder), "another holder of the Lease")
            turn = rig.turn()
            until(rig.observed, "a status by the new leader")
        finally:
            rig.signal(leader, "CONT")
        second = rig.holder()
        rig.converged(turn)
        for _ in range(50):  # what the first one writes now would be of an older generation
            assert rig.observed()
        assert rig.holder() == second


# --- the data plane ---------------------------------------------------------------------------------------------------


def test_one_of_two_envoys_is_killed(rig: Rig) -> None:
    """What it had in hand is lost, and what comes before the Service lets go of it. The other one serves."""
    with rig.traffic(_steady(rig)) as traffic:
        killed = rig.envoys("web")[0]
        began = time.monotonic()
        rig.signal(killed, "KILL", SPACE)
        until(lambda: _again(rig, killed), "the Envoy that starts again")
        again = time.monotonic() - began
        rig.converged(rig.turn())
    last = max((when for when, _ in traffic.seen.wrong), default=began)
    say(
        "one of two Envoys killed", traffic, f"last failure after {last - began:.2f} s, ready again after {again:.1f} s"
    )
    assert last <= began + again + 1.0
    assert all("500" not in wrong for _, wrong in traffic.seen.wrong)


def _again(rig: Rig, killed: Pod) -> bool:
    return any(pod.name == killed.name and pod.ready and pod.restarts > killed.restarts for pod in rig.envoys("web"))


def test_the_node_restarts(rig: Rig) -> None:
    """Every pod's process dies: traffic resumes, without a wrong answer once everything is ready again."""
    rig.cluster("restart", "node")
    began = time.monotonic()
    with unharmed(rig, "node restarted, from the first right answer on"):
        back = time.monotonic() - began
        rig.all_ready()
        print(f"\nthe first right answer after {back:.1f} s, everything ready after {time.monotonic() - began:.1f} s")


# --- the picker -------------------------------------------------------------------------------------------------------


def _chat(rig: Rig, mode: str) -> Plan:
    return Plan((f"http://{rig.address('models')}/v1/chat/completions",), f"{mode}.test", json=CHAT)


def _servant(rig: Rig) -> Pod:
    """The controller that serves more Envoys of the models."""
    return max(rig.controllers(), key=lambda pod: rig.serves(pod, "models"))


def _served(rig: Rig, servant: Pod) -> int:
    """Envoys that others serve; a controller that has started again is another."""
    others = (pod for pod in rig.controllers() if (pod.name, pod.restarts) != (servant.name, servant.restarts))
    return sum(rig.serves(pod, "models") for pod in others)


@pytest.mark.parametrize("how", LEFT)
def test_the_picker_of_an_envoy_ends(rig: Rig, how: str) -> None:
    """FailOpen: no request fails. FailClose: until the other replica's picker is asked; a hung one is found by its health."""
    servant = _servant(rig)
    print(f"\n{servant.name} serves {rig.serves(servant, 'models')} of 2 Envoys")
    with rig.traffic(_chat(rig, "open")) as opened, rig.traffic(_chat(rig, "closed")) as closed:
        if how == "gone":
            rig.bench.kubectl("-n", NAMESPACE, "delete", "pod", servant.name, "--grace-period=0", "--force")
        else:
            rig.signal(servant, how)
        began = time.monotonic()
        until(lambda: _served(rig, servant) >= 2, "streams of every Envoy to other processes")
        moved = time.monotonic() - began
        time.sleep(OUTAGE)
        if how == "STOP":
            rig.signal(servant, "CONT")
        rig.all_ready()
    last = max((when for when, _ in closed.seen.wrong), default=began)
    say(f"picker {how}, FailOpen", opened, f"streams moved after {moved:.1f} s")
    say(f"picker {how}, FailClose", closed, f"last failure after {last - began:.2f} s")
    assert not opened.seen.wrong
    late = [when for when, _ in closed.seen.wrong if when > began + LEFT[how]]
    assert len(late) <= 2  # in flight, one for each Envoy, when its stream moves: another picker is another cluster

"""Signals: the formulas, what makes each unknown, and what a HorizontalPodAutoscaler makes of them."""

from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from observability.autoscaling.signals import (
    BACKLOG,
    DESIRED,
    INFLIGHT,
    QUEUE,
    SATURATION,
    SIGNALS,
    Known,
    Reading,
    Unavailable,
    Unknown,
    default_target,
    hpa,
    read,
)
from observability.catalogue import METRICS
from picker import flow
from picker.demand import Figures
from picker.load import Load
from picker.plugins.flow_control import Thresholds
from tests.picker.test_demand import demand, figures

LEARNED = {"slots": 4.0, "seconds": 2.0, "prefill": 1000.0, "seen": 9.0}


def known(found: Reading) -> Known:
    assert isinstance(found, Known), found
    return found


def unknown(found: Reading) -> str:
    assert isinstance(found, Unknown), found
    return found.why


def test_every_signal_is_a_metric_of_the_catalogue() -> None:
    assert all(METRICS[signal.metric.name] is signal.metric for signal in SIGNALS.values())
    assert {signal.metric.label_names for signal in SIGNALS.values()} == {("pool",)}


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(0, 1)), min_size=1, max_size=8), st.integers(0, 100))
def test_saturation_is_what_the_gateway_itself_goes_by(servers: list[tuple[int, float]], queued: int) -> None:
    rows = [figures(waiting=float(waits), kv_usage=usage) for waits, usage in servers]
    loads = [Load(waiting=waits, kv_usage=usage, scraped=0.0) for waits, usage in servers]
    found = known(read(demand(*rows, queued=queued)).values["saturation"])
    assert found.value == pytest.approx(flow.saturation(loads, 0.0, Thresholds(), queued))
    assert sum(value for _, value in found.parts) == pytest.approx(found.value)


@pytest.mark.parametrize(
    ("row", "queued", "cause"),
    [
        (figures(kv_usage=0.9), 0, "KV cache of the servers"),
        (figures(waiting=9.0, kv_usage=0.2), 0, "queue in the servers"),
        (figures(waiting=2.0), 99, "queue in the gateway"),
        (figures(), 0, "idle"),
    ],
)
def test_saturation_says_its_cause(row: Figures, queued: int, cause: str) -> None:
    assert known(read(demand(row, queued=queued)).values["saturation"]).why == cause


def test_queue_is_what_waits_anywhere_and_in_flight_what_was_sent_or_waits() -> None:
    found = read(demand(figures(waiting=3.0, inflight=5), figures(waiting=1.0, inflight=2), queued=4))
    assert known(found.values["queue"]).value == 8
    assert known(found.values["inflight"]).value == 11


def test_the_backlog_is_prefill_over_the_speed_of_all_and_the_wait_for_a_slot() -> None:
    row = figures(running=4.0, tokens=500.0, **LEARNED)
    found = known(read(demand(row, row, queued=4, queued_tokens=3000.0)).values[BACKLOG.name])
    parts = dict(found.parts)
    assert parts["prefill seconds"] == pytest.approx((3000 + 2 * 500) / 2000)
    assert parts["decode seconds"] == pytest.approx(
        4 * 2.0 / 8
    )  # four without a slot; one of eight is free every 0.25 s
    assert found.value == pytest.approx(3.0)
    assert found.why == "prefill"


def test_a_new_server_is_as_fast_as_its_peers() -> None:
    found = read(demand(figures(tokens=1000.0, **LEARNED), figures()))
    assert known(found.values[BACKLOG.name]).value == pytest.approx(0.5)


def test_where_nothing_waits_the_backlog_is_nothing_however_fast_the_servers_are() -> None:
    assert known(read(demand(figures(running=3.0))).values[BACKLOG.name]).value == 0


def test_a_speed_that_was_never_learned_is_not_guessed() -> None:
    found = read(demand(figures(tokens=1000.0)))
    assert "no request has ended yet" in unknown(found.values[BACKLOG.name])
    with pytest.raises(Unavailable, match="token-backlog-seconds of pool ns/pool"):
        found.value(BACKLOG)
    assert known(found.values["desired-replicas"])  # by the other signals


def test_where_nothing_is_streamed_the_time_in_a_slot_is_all() -> None:
    found = known(read(demand(figures(running=4.0, slots=4.0, seconds=2.0, ended=9), queued=2)).values[BACKLOG.name])
    assert found.value == pytest.approx(2 * 2.0 / 4)
    assert found.why == "wait for a slot"


def test_slots_of_a_server_with_a_queue_are_what_it_runs() -> None:
    found = known(read(demand(figures(running=2.0, waiting=4.0, ended=1, seconds=3.0))).values[BACKLOG.name])
    assert found.value == pytest.approx(4 * 3.0 / 2)
    assert found.why == "wait for a slot"


STALE = figures(known=False, age=42.0)


def test_stale_figures_are_an_error_and_never_zero() -> None:
    found = read(demand(STALE, STALE, figures(waiting=1.0)))
    for signal in SIGNALS.values():
        if signal is INFLIGHT:  # our own count
            assert found.value(signal) == 0
        else:
            assert "2 of 3 endpoints have no fresh figures; one said nothing for 42 s" in unknown(
                found.values[signal.name]
            )
            with pytest.raises(Unavailable):
                found.value(signal)
    assert "never said anything" in unknown(read(demand(figures(known=False, age=None))).values["queue"])


def test_a_few_that_say_nothing_count_as_the_fullest() -> None:
    """So neither does a pool of busy servers look half idle, nor an idle one busy."""
    busy = read(demand(figures(waiting=9.0), figures(waiting=1.0), STALE))
    assert known(busy.values["queue"]).value == 19
    idle = read(demand(figures(), figures(), replace(STALE, waiting=50.0, kv_usage=1.0)))
    assert known(idle.values["saturation"]).value == 0


def test_a_pool_at_zero_needs_a_pod_as_soon_as_somebody_waits() -> None:
    """By each signal: KEDA's operator asks for the figure first, and an error there would keep the pool at zero for ever."""
    waits, idle = read(demand(queued=3, queued_tokens=900.0)), read(demand())
    assert [waits.value(signal) for signal in (QUEUE, INFLIGHT, DESIRED, SATURATION, BACKLOG)] == [3, 3, 1, 1, 0.5]
    assert [idle.value(signal) for signal in SIGNALS.values()] == [0] * 5
    assert all(hpa(signal, waits.value(signal), signal.target, 0) >= 1 for signal in SIGNALS.values())


def test_pods_that_are_not_ready_are_not_taken_for_none() -> None:
    """Servers that are too busy to say that they are ready must not be taken away."""
    found = read(demand(queued=3, unready=4))
    for name in ("saturation", "token-backlog-seconds", "desired-replicas"):
        assert unknown(found.values[name]) == "none of its 4 pods is ready"
    assert found.value(QUEUE) == 3


def test_the_age_is_of_the_oldest_figure_that_is_believed() -> None:
    assert read(demand(figures(age=1.0), figures(age=4.0), STALE)).age == 4.0
    assert read(demand()).age is None


# --- desired replicas -------------------------------------------------------------------------------------------------


def test_the_signal_that_asks_for_most_wins() -> None:
    row = figures(
        running=4.0, kv_usage=0.32, tokens=1000.0, **LEARNED
    )  # KV half of full, all slots taken, 1 s of prefill
    found = read(demand(row, replace(row, pod="10.0.0.2")))
    assert found.asks == {"saturation": 1, "token-backlog-seconds": 4, "inflight": 3}
    assert known(found.values["desired-replicas"]).why == "token-backlog-seconds asks for most"
    assert found.value(DESIRED) == 4


def test_within_the_tolerance_the_size_stays() -> None:
    rows = [figures(pod=f"10.0.0.{number}", kv_usage=0.8 * 0.8 * 1.05) for number in range(3)]
    assert read(demand(*rows)).value(DESIRED) == 3


def test_no_signal_asks_for_more_than_it_can_know_of() -> None:
    row = figures(waiting=1000.0)
    assert read(demand(row)).value(DESIRED) == 5
    pods = [replace(row, pod=f"10.0.0.{number}") for number in range(10)]
    assert read(demand(*pods)).value(DESIRED) == 20


def test_who_is_served_keeps_a_pod() -> None:
    assert read(demand(figures(running=1.0))).value(DESIRED) == 1
    assert read(demand(figures())).value(DESIRED) == 0


def test_ranks_are_asked_for_by_the_pod() -> None:
    ranks = [figures(pod=f"10.0.0.{number // 4}", kv_usage=0.96) for number in range(8)]  # 2 pods of 4 ranks each
    assert read(demand(*ranks)).value(DESIRED) == 3


@given(
    st.lists(
        st.builds(
            lambda w, r, k, i, t, s: figures(waiting=w, running=r, kv_usage=k, inflight=i, tokens=t, **(LEARNED if s else {})),
            *(st.floats(0, 1e4), st.floats(0, 1e3), st.floats(0, 1), st.integers(0, 10**4), st.floats(0, 1e7), st.booleans()),
        ),
        max_size=5,
    ),
    st.integers(0, 10**4),
)  # fmt: skip
def test_more_that_waits_never_asks_for_less(rows: list[Figures], queued: int) -> None:
    less, more = (read(demand(*rows, queued=count, queued_tokens=100.0 * count)) for count in (queued, queued + 10))
    for signal in SIGNALS.values():
        one, two = less.values[signal.name], more.values[signal.name]
        if isinstance(one, Known) and isinstance(two, Known):
            assert 0 <= one.value <= two.value


# --- what a HorizontalPodAutoscaler does ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "target", "replicas", "wants"),
    [(1.6, 0.8, 3, 6), (0.84, 0.8, 3, 3), (0.89, 0.8, 3, 4), (0.2, 0.8, 4, 1), (0.0, 0.8, 4, 0)],
)
def test_a_value_changes_the_size_in_proportion(value: float, target: float, replicas: int, wants: int) -> None:
    assert hpa(SATURATION, value, target, replicas) == wants


@pytest.mark.parametrize(
    ("value", "target", "replicas", "wants"), [(9, 2, 1, 5), (6.3, 2, 3, 3), (6.7, 2, 3, 4), (5, 1, 4, 5), (3, 1, 0, 3)]
)
def test_an_average_value_is_shared_by_the_pods(value: float, target: float, replicas: int, wants: int) -> None:
    assert hpa(QUEUE, value, target, replicas) == wants


def test_half_of_the_objective_is_for_what_is_before_a_prompt() -> None:
    assert default_target(BACKLOG, demand(ttft_objective=3.0)) == 1.5
    assert default_target(BACKLOG, demand()) == 0.5
    assert default_target(SATURATION, demand(ttft_objective=3.0)) == 0.8

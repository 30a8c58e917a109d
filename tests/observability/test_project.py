"""Boards and policies in a project: what differs, and made alike; nothing of others is touched."""

import copy
from typing import Any

import pytest
import requests

from observability.dashboards.cloud_monitoring import dashboard, objective, service
from observability.dashboards.files import boards, policies
from observability.dashboards.objectives import OBJECTIVES
from observability.project import DASHBOARDS, POLICIES, SERVICES, SLOS, Kind, Project, ProjectError, differences
from tests.observability.monitoring import FakeMonitoring, fake_monitoring

BOARDS = [dashboard(board) for board in boards()]
TARGETS = [objective(each) for each in OBJECTIVES]
OTHERS = {"displayName": "Of somebody else", "gridLayout": {}}


@pytest.fixture
def fake() -> Any:
    with fake_monitoring() as found:
        yield found


def project(fake: FakeMonitoring, name: str = "p") -> Project:
    return Project(name, requests.Session(), fake.endpoint)


def applied(fake: FakeMonitoring, kind: Any, ours: list[dict[str, Any]]) -> int:
    there = project(fake)
    changes = there.changes(kind, ours)
    for change in changes:
        there.apply(change)
    return len(changes)


@pytest.mark.parametrize(("kind", "ours"), [(DASHBOARDS, BOARDS), (POLICIES, policies())], ids=["boards", "policies"])
def test_a_second_time_there_is_nothing_to_do(fake: FakeMonitoring, kind: Any, ours: list[dict[str, Any]]) -> None:
    assert applied(fake, kind, ours) == len(ours) == len(fake.objects)
    assert applied(fake, kind, ours) == 0
    assert len(fake.objects) == len(ours)


def served(fake: FakeMonitoring) -> int:
    """The service first: objectives are below it."""
    return applied(fake, SERVICES, [service()]) + applied(fake, SLOS, TARGETS)


def test_a_service_and_its_objectives_are_made_once(fake: FakeMonitoring) -> None:
    there = project(fake)
    assert [str(each)[0] for each in there.changes(SLOS, TARGETS)] == ["+"] * 4  # its service is not there: nothing is
    assert served(fake) == 5
    assert served(fake) == 0
    assert set(fake.objects) == {
        "projects/p/services/penstock",
        *(f"projects/p/services/penstock/serviceLevelObjectives/{each.name}" for each in OBJECTIVES),
    }


def test_an_objective_that_somebody_loosened_is_ours_again_and_keeps_its_name(fake: FakeMonitoring) -> None:
    served(fake)
    name = "projects/p/services/penstock/serviceLevelObjectives/ttft"
    fake.objects[name]["goal"] = 0.5
    (change,) = project(fake).changes(SLOS, TARGETS)
    assert "goal is not as it should be" in str(change)
    assert served(fake) == 1
    assert fake.objects[name]["goal"] == 0.95


def test_objectives_that_we_no_longer_have_go_and_those_of_others_stay(fake: FakeMonitoring) -> None:
    served(fake)
    theirs = fake.add("p", "services", {"displayName": "Shop", "custom": {}})
    under = f"{theirs['name'].removeprefix('projects/p/')}/serviceLevelObjectives"
    kept = fake.add("p", under, TARGETS[0] | {"displayName": "Theirs"})
    ours = fake.add("p", "services/penstock/serviceLevelObjectives", TARGETS[0] | {"userLabels": {}})
    (change,) = project(fake).changes(SLOS, TARGETS[1:])
    assert str(change) == "- Requests without an error of ours, 99.9 %: is no longer wanted"
    assert applied(fake, SLOS, TARGETS[1:]) == 1
    assert kept["name"] in fake.objects
    assert ours["name"] in fake.objects
    assert "projects/p/services/penstock/serviceLevelObjectives/availability" not in fake.objects


def test_a_service_of_others_with_our_name_is_not_taken_over(fake: FakeMonitoring) -> None:
    other = fake.answer("POST", "/v3/projects/p/services", {"serviceId": ["penstock"]}, {"custom": {}})
    with pytest.raises(ProjectError, match="409 projects/p/services/penstock already exists"):
        served(fake)
    assert fake.objects == {other["name"]: other}


def indicator(**method: Any) -> dict[str, Any]:
    return {"serviceLevelIndicator": {"requestBased": method}}


def cut(found: str, **bounds: float) -> dict[str, Any]:
    return indicator(distributionCut={"distributionFilter": found, "range": bounds})


COUNTER, HISTOGRAM = (f'metric.type="x/{kind}" resource.type="prometheus_target"' for kind in ("counter", "histogram"))
THREE = {"goodServiceFilter": COUNTER, "badServiceFilter": COUNTER, "totalServiceFilter": COUNTER}


@pytest.mark.parametrize(
    ("kind", "changed", "why"),
    [
        (SLOS, {"goal": 1.0}, "goal must be in"),
        (SLOS, {"rollingPeriod": "90000s"}, "whole days"),
        (SLOS, {"rollingPeriod": "2678400s"}, "at most 30"),
        (SLOS, {"userLabels": {"penstock": "ttft", "Team": "x"}}, "is not allowed"),
        (SLOS, cut(HISTOGRAM), "range is empty"),
        (SLOS, cut(COUNTER, max=2.0), "must be of a histogram"),
        (SLOS, cut('metric.type="x/histogram"', max=2.0), r"must have resource\.type once"),
        (SLOS, cut("sum(rate(x[5m]))", max=2.0), "cannot be parsed"),
        (SLOS, indicator(goodTotalRatio=THREE), "exactly two"),
        (SLOS, {"surprise": 1}, "surprise"),
        (SERVICES, {"userLabels": {"penstock": "Wrong Name"}}, "must match"),
    ],
)
def test_the_fake_refuses_what_the_api_refuses(
    fake: FakeMonitoring, kind: Kind, changed: dict[str, Any], why: str
) -> None:
    """Ours get through, so they are right; that is only worth something if what is wrong does not."""
    if kind is SLOS:
        applied(fake, SERVICES, [service()])
    body = (TARGETS[1] if kind is SLOS else service()) | changed
    with pytest.raises(ProjectError, match=why):
        applied(fake, kind, [body])


def test_what_others_have_there_stays(fake: FakeMonitoring) -> None:
    other = fake.add("p", "dashboards", OTHERS)
    applied(fake, DASHBOARDS, BOARDS)
    assert fake.objects[other["name"]] == other


def test_a_board_that_somebody_changed_is_made_ours_again(fake: FakeMonitoring) -> None:
    applied(fake, DASHBOARDS, BOARDS)
    name = next(iter(fake.objects))
    changed = copy.deepcopy(fake.objects[name])
    changed["mosaicLayout"]["tiles"][1]["widget"]["title"] = "Mine"
    fake.objects[name] = changed
    (change,) = project(fake).changes(DASHBOARDS, BOARDS)
    assert "mosaicLayout.tiles[1].widget.title" in str(change)
    assert applied(fake, DASHBOARDS, BOARDS) == 1
    assert applied(fake, DASHBOARDS, BOARDS) == 0


def test_who_changes_it_meanwhile_is_not_overwritten(fake: FakeMonitoring) -> None:
    applied(fake, DASHBOARDS, BOARDS)
    ours = copy.deepcopy(BOARDS[:1])
    ours[0]["displayName"] = "New"
    there = project(fake)
    (change,) = there.changes(DASHBOARDS, ours)
    there.apply(change)
    with pytest.raises(ProjectError, match="409 etag does not match"):
        there.apply(change)


def test_notification_channels_stay(fake: FakeMonitoring) -> None:
    ours = policies()
    applied(fake, POLICIES, ours)
    name = next(iter(fake.objects))
    fake.objects[name]["notificationChannels"] = ["projects/p/notificationChannels/1"]
    assert applied(fake, POLICIES, ours) == 0
    assert applied(fake, POLICIES, policies("https://example.org/books")) == len(ours)
    assert fake.objects[name]["notificationChannels"]
    assert "https://example.org/books/" in fake.objects[name]["documentation"]["content"]


def test_a_refusal_says_who_and_why(fake: FakeMonitoring) -> None:
    with pytest.raises(ProjectError, match="403 Permission denied on projects/forbidden/dashboards"):
        project(fake, "forbidden").changes(DASHBOARDS, BOARDS)


def test_an_api_that_is_not_there(fake: FakeMonitoring) -> None:
    fake.endpoint = "http://127.0.0.1:1"
    with pytest.raises(ProjectError, match="cannot be reached"):
        project(fake).changes(DASHBOARDS, BOARDS)


@pytest.mark.parametrize(
    ("ours", "theirs", "where"),
    [
        ({"a": 1}, {"a": 1, "more": 2}, []),
        ({"a": 0, "b": "", "c": [], "d": {"e": False}}, {}, []),
        ({"a": 1}, {"a": 2}, ["a is not as it should be"]),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3]}}, ["a.b[1] is not as it should be"]),
        ({"a": [1]}, {"a": [1, 2]}, ["a is not as it should be"]),
        ({"a": {"b": 1}}, {}, ["a.b is not as it should be"]),
        ({"a": {"b": 1}}, {"a": 1}, ["a is not as it should be"]),
    ],
)
def test_differences(ours: Any, theirs: Any, where: list[str]) -> None:
    assert list(differences(ours, theirs)) == where

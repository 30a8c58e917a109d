"""`penstock dashboards` and `penstock verify`: exit statuses, and what is printed. Against a fake of the API, and no Prometheus."""

from argparse import ArgumentTypeError
from typing import Any

import pytest

from penstock.cli import main
from penstock.monitoring import prices
from tests.observability.monitoring import FakeMonitoring, fake_monitoring


@pytest.fixture
def fake() -> Any:
    with fake_monitoring() as found:
        yield found


def run(fake: FakeMonitoring, action: str, *more: str) -> int:
    return main(["dashboards", action, "--project", "p", "--endpoint", fake.endpoint, *more])


def test_diff_says_what_apply_would_do_and_fails_until_it_is_done(
    fake: FakeMonitoring, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(fake, "diff") == 1
    out, err = capsys.readouterr()
    assert "+ Penstock overview: is not there" in out
    assert "differ" in err
    assert not fake.objects
    assert run(fake, "apply") == 0
    capsys.readouterr()
    assert run(fake, "diff") == 0
    assert capsys.readouterr().out == ""
    calls = len(fake.calls)
    assert run(fake, "apply") == 0
    assert {method for method, _ in fake.calls[calls:]} == {"GET"}


def test_without_alerts_and_objectives_only_boards_are_touched(fake: FakeMonitoring) -> None:
    assert run(fake, "apply", "--no-alerts", "--no-objectives") == 0
    assert {name.split("/")[2] for name in fake.objects} == {"dashboards"}
    assert len(fake.objects) == 8


def test_objectives_are_made_below_their_service_in_one_go(
    fake: FakeMonitoring, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(fake, "apply") == 0
    assert "+ Decisions within 10 ms, 99 %: is not there" in capsys.readouterr().out
    assert sum("/serviceLevelObjectives/" in name for name in fake.objects) == 4


def test_a_refusal_is_one_line(fake: FakeMonitoring, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dashboards", "diff", "--project", "forbidden", "--endpoint", fake.endpoint]) == 2
    err = capsys.readouterr().err
    assert err.startswith("penstock: error: GET v1/projects/forbidden/dashboards: 403 Permission denied")
    assert err.count("\n") == 1


def test_a_prometheus_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--prometheus", "http://127.0.0.1:1"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("penstock: error: --prometheus http://127.0.0.1:1: ")
    assert err.count("\n") == 1


def test_a_header_without_a_value_is_told() -> None:
    assert main(["verify", "--prometheus", "http://127.0.0.1:1", "--header", "authorization"]) == 2


def test_prices_are_three_numbers() -> None:
    assert prices("0.15,0,0.6") == {"input_price": "0.15", "cached_price": "0", "output_price": "0.6"}
    for wrong in ("1,2", "1,2,3,4", "1,2,x", "1,-2,3", "1,2,3) or vector(1"):
        with pytest.raises(ArgumentTypeError, match="not three prices"):
            prices(wrong)

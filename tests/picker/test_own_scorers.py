"""Scorers of the user: found by name, never anybody else's code; and kept from doing harm."""

from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from picker import own_scorers
from picker.errors import ConfigError
from picker.plugins.own import BUDGET, REMEMBER, REST, STRIKES, Guarded, Own, ScorerView
from picker.profile import read
from picker.scorers import UNKNOWN
from picker.stage import Profile
from tests.picker._views import endpoint, fresh, view

A, B = endpoint(1, zone="z", node="n", gpu="l4"), endpoint(2)
SEEN = view(A, B, loads=(fresh(kv_usage=0.25, inflight=3, inflight_at_scrape=3), fresh()), matched=(128, 0), cacheable=256,
            prompt=b"x" * 400, headers={"x-a": "b"})  # fmt: skip


class Clock:
    """Time goes by as the test says."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def write(folder: Path, text: str, name: str = "mine.py") -> Path:
    folder.joinpath(name).parent.mkdir(exist_ok=True)
    folder.joinpath(name).write_text(text)
    return folder


def config(function: Any, **more: Any) -> dict[str, Any]:
    return {"plugins": [{"type": "python-scorer", "name": "mine", "parameters": {"function": function, **more}}]}


def load(folder: Path | None, function: Any = "mine:score", **more: Any) -> Profile:
    return read(config(function, **more), own_scorers.own(folder))


def test_a_function_of_the_directory_scores(tmp_path: Path) -> None:
    write(tmp_path, "def score(view):\n    return [1 - one.kv_usage for one in view.endpoints]\n")
    assert load(tmp_path).scorers[0][1](SEEN) == [0.75, 1.0]
    write(
        tmp_path,
        "def score(view):\n    return (0.5 for _ in view.endpoints)  # as it is when it is configured\n",
        "deep/er.py",
    )
    assert load(tmp_path, "deep.er:score", budget="2s").scorers[0][1](SEEN) == [0.5, 0.5]


def test_an_entry_point_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    points = metadata.EntryPoints([
        metadata.EntryPoint("busy", "tests.picker.test_own_scorers:busy", own_scorers.GROUP),
        metadata.EntryPoint("broken", "no_such_module:busy", own_scorers.GROUP),
    ])  # fmt: skip
    monkeypatch.setattr(own_scorers, "entry_points", lambda group: points.select(group=group))
    assert load(None, "busy").scorers[0][1](SEEN) == [0.25, 1.0]
    with pytest.raises(ConfigError, match="known: broken, busy"):
        load(None, "bsuy")
    with pytest.raises(ConfigError, match="'broken' cannot be loaded: ModuleNotFoundError"):
        load(None, "broken")


def busy(seen: ScorerView) -> list[float]:
    return [1.0 / (1 + one.inflight) for one in seen.endpoints]


def test_what_a_scorer_sees() -> None:
    views: list[ScorerView] = []
    Guarded("mine", lambda seen: views.append(seen) or [0, 0], lambda: 0.0)(SEEN)
    (found,) = views
    assert (found.model, found.prompt_tokens, dict(found.headers)) == ("m", 100, {"x-a": "b"})
    first = found.endpoints[0]
    assert (first.name, first.zone, first.node, first.labels) == (str(A), "z", "n", {"gpu": "l4"})
    assert (first.known, first.kv_usage, first.cached_tokens, first.inflight) == (True, 0.25, 128, 3)
    with pytest.raises(TypeError):
        found.headers["x-a"] = "c"  # type: ignore[index]


@pytest.mark.parametrize(
    ("function", "text", "says"),
    [
        ("mine:score", "", "is not a function"),
        ("mine:score", "score = 1", "is not a function"),
        ("mine:score", "1 / 0", "cannot be loaded: ZeroDivisionError"),
        ("mine:score", "def score(", "cannot be loaded: SyntaxError"),
        ("mine:score", "raise SystemExit", "cannot be loaded: SystemExit"),
        ("other:score", "", "no other.py in the directory"),
        ("os:getcwd", "", "no os.py in the directory"),
        ("../mine:score", "", "no installed package has a scorer"),
        ("", "", "no installed package has a scorer"),
        (7, "", "must be a string"),
    ],
)
def test_what_cannot_be_loaded_is_a_mistake_of_the_file(tmp_path: Path, function: Any, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load(write(tmp_path, text), function)


def test_without_a_directory_no_file_is_found() -> None:
    with pytest.raises(ConfigError, match="--scorers DIR"):
        load(None)
    with pytest.raises(ConfigError, match="--scorers DIR"):
        read(config("mine:score"))


def _raises(_: ScorerView) -> list[float]:
    raise ValueError("no prices today")


def _exits(_: ScorerView) -> list[float]:
    raise SystemExit(3)


def _endless(_: ScorerView) -> Iterator[float]:
    yield 0.5
    raise OSError("half way")


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (_raises, "ValueError: no prices today"),
        (_exits, "SystemExit: 3"),
        (_endless, "OSError: half way"),
        (lambda _: [1.0], "gave 1 figures for 2 endpoints"),
        (lambda _: [0.5, float("nan")], "gave nan"),
        (lambda _: [0.5, 1.01], "gave 1.01"),
        (lambda _: ["a", "b"], "ValueError"),
        (lambda _: None, "TypeError"),
    ],
)
def test_a_faulty_one_counts_as_unknown_and_is_shown(
    function: Callable[[ScorerView], Any], says: str, clock: Clock
) -> None:
    scorer = Guarded("mine", function, clock)
    assert scorer.problem is None
    assert scorer(SEEN) == [UNKNOWN, UNKNOWN]
    assert scorer.faults == 1
    assert says in (scorer.problem or "")
    clock.now += REMEMBER + 1
    assert scorer.problem is None


def test_one_that_keeps_failing_is_left_out_for_a_while(clock: Clock) -> None:
    scorer = Guarded("mine", _raises, clock)
    for _ in range(STRIKES + 5):
        scorer(SEEN)
    assert scorer.calls == STRIKES
    assert "left out" in (scorer.problem or "")
    clock.now += REST
    scorer(SEEN)
    assert scorer.calls == STRIKES + 1


def test_a_slow_one_is_left_out_for_a_while(clock: Clock) -> None:
    seconds = [2 * BUDGET, 0.0, 2 * BUDGET, 2 * BUDGET, 2 * BUDGET]

    def slow(_: ScorerView) -> list[float]:
        clock.now += seconds.pop(0)
        return [1.0, 0.0]

    scorer = Guarded("mine", slow, clock)
    assert [scorer(SEEN) for _ in range(6)] == [[1.0, 0.0]] * 5 + [[UNKNOWN, UNKNOWN]]
    assert "took 2 ms of 1" in (scorer.problem or "")
    clock.now += REST
    seconds.append(11 * BUDGET)  # far over: once is enough
    scorer(SEEN)
    assert scorer(SEEN) == [UNKNOWN, UNKNOWN]


def test_the_profile_shows_problems() -> None:
    found = read(config("x"), Own(lambda _: _raises, lambda: 0.0))
    assert found.problems == ()
    found.scorers[0][1](SEEN)
    assert "no prices today" in found.problems[0]

"""What was sent a moment ago, against a list of all that was ever sent."""

from hypothesis import example, given, strategies as st

from picker.recent import Recent

SECONDS = 2.0


def chain(blocks: tuple[int, ...]) -> list[int]:
    """A hash stands for all blocks before it too."""
    return [hash(blocks[: index + 1]) for index in range(len(blocks))]


CHAINS = st.lists(st.integers(0, 1), min_size=1, max_size=4).map(tuple)
STEPS = st.tuples(st.sampled_from(["add", "settle", "forget"]), CHAINS, st.floats(0.25, 1.5))


@example([("add", (0,), 1.0), ("add", (0,), 1.5), ("add", (0, 1), 1.0), ("settle", (0, 1), 1.0)], (0,), 0)
@given(st.lists(STEPS, max_size=20), CHAINS, st.integers(0, 4))
def test_what_is_recent_was_sent_lately_and_not_settled(steps: list, asked: tuple[int, ...], known: int) -> None:
    recent, now = Recent(SECONDS), 1.0
    sent: dict[int, float] = {}
    requests: dict[tuple[int, ...], float] = {}
    for what, blocks, passed in steps:
        now += passed
        match what:
            case "add":
                recent.add("a", chain(blocks), now)
                sent |= dict.fromkeys(chain(blocks), now)
                requests[blocks] = now
            case "settle":  # the latest request of this chain ends
                at = requests.pop(blocks, None)
                if at is not None:
                    recent.settle("a", chain(blocks), at)
                    sent = {one: when for one, when in sent.items() if one not in chain(blocks) or when != at}
            case "forget":
                recent.forget("a")
                sent, requests = {}, {}
    expected = 0
    while expected < len(asked) and sent.get(chain(asked)[expected], -9.0) >= now - SECONDS:
        expected += 1
    assert recent.count("a", chain(asked), min(known, len(asked)), now) == max(expected, min(known, len(asked)))
    assert recent.count("b", chain(asked), 0, now) == 0


def test_memory_is_that_of_two_moments() -> None:
    recent = Recent(SECONDS)
    for number in range(1000):
        recent.add("a", [number], number / 10)
    (sent,) = recent._endpoints.values()
    assert len(sent.new) + len(sent.old) < 50
    recent.retain({"b"})
    assert not recent._endpoints

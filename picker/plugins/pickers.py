"""Pickers, by llm-d's names. A picker is made for a stage, because how many endpoints it gives differs when the file is silent."""

from collections.abc import Callable, Mapping

from picker import scorers as functions
from picker.plugins.parameters import Parameters
from picker.scorers import Picker

FALLBACKS = 3  # endpoints, where the file does not say: Envoy tries the next when one fails (llm-d: 1, and no retry)

Make = Callable[[int], Picker]  # by the number of endpoints where the file does not say


def _reader(picker: Callable[[int], Picker]) -> Callable[[Parameters], Make]:
    def read(given: Parameters) -> Make:
        count = given.integer("maxNumOfEndpoints", 0, 1, 1000) if given.has("maxNumOfEndpoints") else None
        return lambda default: picker(default if count is None else count)

    return read


PICKERS: Mapping[str, Callable[[Parameters], Make]] = {
    "max-score-picker": _reader(functions.max_score_picker),
    "random-picker": _reader(functions.random_picker),
    "weighted-random-picker": _reader(functions.weighted_random_picker),
}

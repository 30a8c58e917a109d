"""Facts: frozen values, whichever there are."""

import dataclasses

from xds_server.kubernetes import facts


def test_every_fact_is_a_frozen_value() -> None:
    kinds = [each for each in vars(facts).values() if isinstance(each, type) and each.__module__ == facts.__name__]
    assert kinds
    assert all(dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen for kind in kinds)

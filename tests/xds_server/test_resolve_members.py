"""Objectives and rewrites: what their status says, to whom they belong, and which of them take effect."""

from typing import Any

import pytest

from picker.ask import target_model
from tests.xds_server.resolve_world import gateway, graph, pool, reasons, service, status, thing
from xds_server.model.graph import Condition, Graph

ACCEPTED = {"Accepted": ("True", "Accepted")}


def rewrite(name: str, *rules: tuple[list[str], str], month: int = 1, to: str = "p") -> Any:
    """Rules as (models, target); no target for ""."""
    written = [
        {
            "matches": [{"model": {"value": model}} for model in models],
            **({"targets": [{"modelRewrite": target}]} if target else {}),
        }
        for models, target in rules
    ]
    spec = {"poolRef": {"name": to}, "rules": written}
    return thing("InferenceModelRewrite", name, spec, created=f"2026-0{month}-01T00:00:00Z", generation=7)


def objective(name: str, models: str = "", to: str = "p") -> Any:
    return thing("InferenceObjective", name, {"poolRef": {"name": to}}, annotations={"penstock.dev/models": models})


def condition(found: Graph, name: str, kind: str = "InferenceModelRewrite") -> Condition:
    (only,) = status(found, kind, name).conditions
    return only


def test_what_takes_effect_is_accepted() -> None:
    found = graph(pool(), rewrite("a", (["m"], "x"), ([], "y")), objective("o"))
    assert condition(found, "a") == Condition("Accepted", "True", "Accepted", generation=7)
    assert reasons(status(found, "InferenceObjective", "o").conditions) == ACCEPTED
    assert not found.problems


@pytest.mark.parametrize(
    ("kind", "made"),
    [
        ("InferenceModelRewrite", rewrite("a", (["m"], "x"), to="none")),
        ("InferenceObjective", objective("a", to="none")),
    ],
)
def test_without_its_pool_it_is_not(kind: str, made: Any) -> None:
    found = graph(pool(), made)
    told = condition(found, "a", kind)
    assert (told.status, told.reason) == ("False", "TargetNotFound")
    assert "InferencePool d/none does not exist" in told.message
    assert [each.field for each in found.problems] == ["spec.poolRef"]


def test_the_oldest_has_a_model_and_the_other_is_told_so() -> None:
    older, younger = rewrite("z", (["m"], "x"), month=1), rewrite("a", (["m"], "y"), month=2)
    found = graph(pool(), younger, older)
    assert target_model(found.pools["d/p"].rewrites, "m", "k") == "x"
    assert condition(found, "z").status == "True"
    told = condition(found, "a")
    assert (told.status, told.reason) == ("False", "Conflicted")
    assert told.message == "rule 0 is not used for model 'm': InferenceModelRewrite d/z, which comes first, has it"
    assert [(each.field, each.reason) for each in found.problems] == [("spec.rules", "Conflicted")]


def test_what_has_some_effect_is_accepted_and_told_the_rest() -> None:
    rules = [(["m", "n"], "y"), (["n"], "z"), ([], "u"), ([], "v")]
    found = graph(pool(), rewrite("a", (["m"], "x")), rewrite("b", *rules, month=2))
    told = condition(found, "b")
    assert told.status == "True"
    assert told.message.split("; ") == [
        "rule 0 is not used for model 'm': InferenceModelRewrite d/a, which comes first, has it",
        "rule 1 is not used for model 'n': its rule 0 has it",
        "rule 3 is not used for every model that no rule names: its rule 2 has it",
    ]
    assert not found.problems


def test_rewrites_of_other_pools_are_no_rivals() -> None:
    found = graph(pool(), pool("q"), rewrite("a", (["m"], "x")), rewrite("b", (["m"], "y"), month=2, to="q"))
    assert [condition(found, name).status for name in "ab"] == ["True", "True"]


def test_one_that_rewrites_nothing_is_invalid() -> None:
    told = condition(graph(pool(), rewrite("a", (["m"], ""))), "a")
    assert (told.status, told.reason) == ("False", "Invalid")


def test_an_objective_is_told_which_of_its_models_another_one_gets() -> None:
    found = graph(pool(), objective("b", "m,n"), objective("a", "m"))
    told = condition(found, "b", "InferenceObjective")
    assert (told.status, told.message) == ("True", "model 'm' has InferenceObjective d/a, the first by name")
    assert condition(found, "a", "InferenceObjective").message == ""


def test_of_a_pool_with_a_foreign_picker_nothing_is_said() -> None:
    named = pool(spec={"endpointPickerRef": {"name": "epp", "port": {"number": 9002}}})
    objects = [named, service("epp", service_ports=[{"port": 9002}]), rewrite("a", (["m"], "x")), objective("o")]
    kinds = ("InferenceModelRewrite", "InferenceObjective")
    foreign = graph(gateway(), *objects, foreign_pickers=True)
    assert not [ref for ref in foreign.statuses if ref.kind in kinds]
    ours = graph(gateway(), *objects)
    assert len([ref for ref in ours.statuses if ref.kind in kinds]) == 2

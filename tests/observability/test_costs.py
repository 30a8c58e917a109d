"""Money: a million tokens at their prices, cached input at its own, models without a part of it; reckoned by promtool."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from observability.dashboards.model import filled
from observability.dashboards.promql import cost, saved

PROMTOOL = shutil.which("promtool")
PRICES = {"input_price": "1", "cached_price": "0.5", "output_price": "4"}
# Tokens a minute: `chat` has cached input, `embed` has no output at all.
TOKENS = {("chat", "input"): 600, ("chat", "cached_input"): 240, ("chat", "output"): 120, ("embed", "input"): 60}
# (10 - 4) * 1 + 4 * 0.5 + 2 * 4, and 1 * 1, a second.
PER_SECOND = {"chat": 16, "embed": 1}
DAY = 86_400


@pytest.mark.skipif(not PROMTOOL, reason="no promtool on PATH")
@pytest.mark.parametrize(
    ("promql", "expected"),
    [
        (
            cost("model_name"),
            [('{model_name="chat"}', PER_SECOND["chat"]), ('{model_name="embed"}', PER_SECOND["embed"])],
        ),
        (cost(""), [("{}", 17)]),
        (cost("", "increase"), [("{}", 17 * DAY)]),
        (saved(), [("{}", 2)]),  # 4 * (1 - 0.5)
        (saved("increase"), [("{}", 2 * DAY)]),
    ],
)
def test_cost(promql: str, expected: list[tuple[str, float]], tmp_path: Path) -> None:
    series = [
        {"series": f'penstock_tokens_total{{model_name="{model}",type="{kind}"}}', "values": f"0+{each}x3000"}
        for (model, kind), each in TOKENS.items()
    ]
    query = f"round(1e6 * ({filled(promql, '5m', prices=PRICES)}))"
    asked = {
        "expr": query,
        "eval_time": "2d",
        "exp_samples": [{"labels": each, "value": value} for each, value in expected],
    }
    test = {"interval": "1m", "input_series": series, "promql_expr_test": [asked]}
    (tmp_path / "test.yaml").write_text(json.dumps({"rule_files": [], "tests": [test]}))
    command = [str(PROMTOOL), "test", "rules", "test.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_without_prices_all_is_0() -> None:
    assert "_price" not in filled(cost("pool"), "5m")
    assert "* (0 - 0)" in filled(cost("pool"), "5m")

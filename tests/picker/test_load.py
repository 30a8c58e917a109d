"""The scan of /metrics against the stock Prometheus parser as an oracle, and each engine's names."""

import contextlib
import math

import pytest
from hypothesis import given, strategies as st
from prometheus_client.parser import text_string_to_metric_families

from picker.load import ENGINES, Load, UnknownPage, parse

VLLM = b"""# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="tiny"} 3.0
vllm:num_requests_running{engine="1",model_name="tiny"} 4.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="tiny"} 1.0
vllm:num_requests_waiting{engine="1",model_name="tiny"} 0.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="tiny",reason="capacity"} 77.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="tiny"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="tiny"} 0.75
# TYPE vllm:lora_requests_info gauge
vllm:lora_requests_info{max_lora="2",running_lora_adapters="",waiting_lora_adapters=""} 1.7953377099470766e+09
vllm:lora_requests_info{max_lora="2",running_lora_adapters="sql, a\\"b",waiting_lora_adapters="chat"} 1.7953377099570766e+09
vllm:lora_requests_info{max_lora="2",running_lora_adapters="old",waiting_lora_adapters=""} 1.7953377099270766e+09
vllm:cache_config_info{block_size="32",engine="0",kv_cache_dtype_skip_layers="[{}]",num_gpu_blocks="2048"} 1.0
vllm:cache_config_info{block_size="32",engine="1",kv_cache_dtype_skip_layers="[{}]",num_gpu_blocks="2048"} 1.0
"""


def test_vllm_sums_counts_and_averages_usage_over_engines() -> None:
    assert parse(VLLM, now=7.0) == Load(
        waiting=1,
        running=7,
        kv_usage=0.5,
        loras=frozenset({"sql", 'a"b'}),
        loras_waiting=frozenset({"chat"}),
        max_loras=2,
        block_tokens=32,
        blocks=4096,
        scraped=7.0,
    )


@pytest.mark.parametrize(
    ("engine", "page"),
    [
        (
            "sglang",
            (
                'sglang:num_queue_reqs{tp_rank="0"} 1\nsglang:num_running_reqs{tp_rank="0"} 2\nsglang:token_usage 0.5\n'
                "sglang:page_size 16\nsglang:num_pages 100\nsglang:fwd_occupancy NaN\n"
            ),
        ),
        (
            "sglang",
            (
                "sglang:num_queue_reqs 1\nsglang:num_running_reqs 2\nsglang:token_usage 0.5\n"
                'sglang:cache_config_info{num_pages="100",page_size="16"} 1\n'
            ),
        ),
        (
            "trtllm-serve",
            (
                "trtllm_num_requests_waiting 1\ntrtllm_num_requests_running 2\ntrtllm_kv_cache_utilization 0.5\n"
                "trtllm_kv_cache_tokens_per_block 16\ntrtllm_kv_cache_max_blocks 100\n"
            ),
        ),
        (
            "triton-tensorrt-llm",
            (
                'nv_trt_llm_request_metrics{model="m",request_type="waiting",version="1"} 1\n'
                'nv_trt_llm_request_metrics{model="m",request_type="scheduled",version="1"} 2\n'
                'nv_trt_llm_request_metrics{model="m",request_type="max",version="1"} 512\n'
                'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction",model="m"} 0.5\n'
                'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="tokens_per",model="m"} 16\n'
                'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="max",model="m"} 100\n'
            ),
        ),
    ],
)
def test_other_engines(engine: str, page: str) -> None:
    expected = Load(waiting=1, running=2, kv_usage=0.5, block_tokens=16, blocks=100)
    assert parse(page.encode()) == parse(page.encode(), engine) == parse(page.encode(), "something new") == expected


def test_missing_families_keep_defaults() -> None:
    assert parse(b"vllm:num_requests_running 2\n") == Load(running=2)
    assert parse(b'vllm:gpu_cache_usage_perc{engine="0"} 0.5\n') == Load(kv_usage=0.5)
    assert parse(b'vllm:num_requests_running 2\nvllm:cache_config_info{num_gpu_blocks="None"} 1\n') == Load(running=2)
    assert parse(b"vllm:num_requests_running NaN\nvllm:kv_cache_usage_perc 7\n") == Load(kv_usage=1.0)
    below_zero = b"vllm:num_requests_running 18446744073709551615\nvllm:kv_cache_usage_perc 0.5\n"  # for ever its slots
    assert parse(below_zero) == Load(kv_usage=0.5)
    assert parse(b'vllm:num_requests_running 1\nvllm:lora_requests_info{max_lora="x"} y\n') == Load(running=1)


@pytest.mark.parametrize("page", [b"", b"<html>vllm</html>", b"up 1\n", b"vllm:prompt_tokens_total 3\n"])
def test_a_page_without_our_names_says_what_was_expected(page: bytes) -> None:
    with pytest.raises(UnknownPage, match="vllm:num_requests_waiting"):
        parse(page)


NAMES = (
    "vllm:num_requests_waiting",
    "vllm:num_requests_running",
    "vllm:kv_cache_usage_perc",
    "vllm:num_requests_waiting_by_reason",
    "vllm:num_requests_swapped",
    "other",
)
SERIES = st.tuples(
    st.dictionaries(st.sampled_from(["engine", "model_name", "a_b"]), st.text(max_size=12)),
    st.one_of(st.floats(0, 1e6), st.just(math.nan), st.just(math.inf)),
)


@given(st.dictionaries(st.sampled_from(NAMES), st.lists(SERIES, min_size=1, max_size=3)), st.booleans())
def test_agrees_with_the_stock_parser(families: dict[str, list[tuple[dict[str, str], float]]], typed: bool) -> None:
    lines = []
    for name, series in families.items():
        lines += [f"# TYPE {name} gauge"] if typed else []
        lines += [f"{name}{labels_of(labels)} {value!r}" for labels, value in series]
    page = "\n".join(lines) + "\n"
    seen: dict[str, list[float]] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if math.isfinite(sample.value):
                seen.setdefault(sample.name, []).append(sample.value)
    waiting, running, usage = (seen.get(name, []) for name in NAMES[:3])
    if not (waiting or running or usage):
        with pytest.raises(UnknownPage):
            parse(page.encode(), "vllm")
        return
    found = parse(page.encode(), "vllm")
    assert (found.waiting, found.running) == (int(sum(waiting)), int(sum(running)))
    assert found.kv_usage == (min(sum(usage) / len(usage), 1.0) if usage else 0.0)


@given(
    st.lists(st.text(st.characters(exclude_characters=",", exclude_categories=["Cs"]), min_size=1), max_size=4),
    st.floats(1, 1e9),
)
def test_adapter_names_survive_escaping(names: list[str], time: float) -> None:
    labels = labels_of({"max_lora": "4", "running_lora_adapters": ",".join(names), "waiting_lora_adapters": ""})
    page = f"vllm:num_requests_running 1\nvllm:lora_requests_info{labels} {time!r}\n"
    oracle = (
        next(f for f in text_string_to_metric_families(page) if f.name == "vllm:lora_requests_info").samples[0].labels
    )
    expected = {part.strip() for part in oracle["running_lora_adapters"].split(",")} - {""}
    assert parse(page.encode()).loras == expected


@given(st.binary(max_size=200))
def test_no_page_crashes_the_scan(junk: bytes) -> None:
    for engine in ENGINES.values():
        for name in (engine.waiting[0].name, engine.lora or engine.running[0].name):
            with contextlib.suppress(UnknownPage):
                parse(b"\n" + name + junk)


def labels_of(labels: dict[str, str]) -> str:
    escaped = {k: v.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for k, v in labels.items()}
    return "{" + ",".join(f'{k}="{v}"' for k, v in escaped.items()) + "}" if labels else ""


def test_prefills_of_ours_are_done_bit_by_bit() -> None:
    load = Load(prefill=(8.0, 10.0, 14.0))
    assert [load.ahead(now) for now in (9.0, 10.0, 12.0, 13.0, 14.0, 99.0)] == [8, 8, 4, 2, 0, 0]
    assert Load().ahead(0.0) == Load(prefill=(1.0, 5.0, 5.0)).ahead(0.0) == 0


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ('DCGM_FI_DEV_GPU_UTIL{gpu="0",UUID="GPU-1",modelName="H100"} 80\nDCGM_FI_DEV_GPU_UTIL{gpu="1"} 40\n', 0.6),
        ('tpu_duty_cycle{chip="0"} 25.5\n', 0.255),
        ('duty_cycle_node{accelerator="tpu"} 50 1700000000000\n', 0.5),
        ("duty_cycle 100\n", 1.0),
        ("DCGM_FI_DEV_GPU_UTIL 250\n", 1.0),
        ("DCGM_FI_DEV_GPU_UTIL NaN\nduty_cycle -1\nduty_cycle 1e\n", None),
        ("# HELP DCGM_FI_DEV_GPU_UTIL GPU utilization (in %).\nDCGM_FI_DEV_GPU_UTILITY 7\nmy_duty_cycle 9\n", None),
    ],
)
def test_utilization_of_the_accelerators_where_the_page_has_it(lines: str, found: float | None) -> None:
    page = "vllm:num_requests_waiting 1\n" + lines
    assert parse(page.encode()).utilization == (None if found is None else pytest.approx(found))

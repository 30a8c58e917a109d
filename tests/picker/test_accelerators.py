"""Accelerators: pages of DCGM's exporter, of its DaemonSet and its sidecar, and of TPUs."""

import pytest
from hypothesis import given, strategies as st

from picker.accelerators import Busy, parse
from xds_server.model.graph import Endpoint

A, B = Endpoint("10.0.0.1", 8000, pod="vllm-a"), Endpoint("10.0.0.2", 8000, pod="vllm-b")
NAMELESS = Endpoint("10.0.0.3", 8000)
NODE = b"""# HELP DCGM_FI_DEV_GPU_UTIL GPU utilization (in %).
# TYPE DCGM_FI_DEV_GPU_UTIL gauge
DCGM_FI_DEV_GPU_UTIL{gpu="0",UUID="GPU-0",device="nvidia0",modelName="H100 \\"80\\"",Hostname="n",container="v",namespace="ns",pod="vllm-a"} 40
DCGM_FI_DEV_GPU_UTIL{gpu="1",UUID="GPU-1",device="nvidia1",Hostname="n",container="v",namespace="ns",pod="vllm-a"} 90 1700000000000
DCGM_FI_DEV_GPU_UTIL{gpu="2",UUID="GPU-2",Hostname="n",container="v",namespace="other",pod="vllm-b"} 70
DCGM_FI_DEV_GPU_UTIL{gpu="3",UUID="GPU-3",Hostname="n",container="",namespace="",pod=""} 5
"""


def test_an_exporter_of_a_node_says_whose_accelerators_they_are() -> None:
    found = parse(NODE)
    assert found.of("ns", A) == 0.9  # the busiest of its two
    assert found.of("other", B) == 0.7
    assert found.of("ns", B) is None  # another's pod of the same name
    assert found.of("ns", NAMELESS) is None


def test_an_exporter_that_names_no_pod_is_the_pods_own() -> None:
    found = parse(b'DCGM_FI_DEV_GPU_UTIL{gpu="0"} 10\nDCGM_FI_DEV_GPU_UTIL{gpu="1"} 60\n')
    assert found.of("ns", A) == found.of("ns", NAMELESS) == 0.6


@pytest.mark.parametrize(
    ("page", "found"),
    [
        (b'DCGM_FI_PROF_GR_ENGINE_ACTIVE{gpu="0"} 0.25\n', 0.25),
        (b"DCGM_FI_PROF_GR_ENGINE_ACTIVE 0.25\nDCGM_FI_DEV_GPU_UTIL 50\n", 0.5),
        (b'duty_cycle{accelerator_id="0",make="cloud-tpu",namespace="ns",pod="vllm-a"} 33\n', 0.33),
        (b'tensorcore_utilization{pod="vllm-a"} 12.5\nduty_cycle{pod="vllm-a"} 33\n', 0.33),
        (b'duty_cycle_node{accelerator_id="0"} 50\n', 0.5),
        (b"DCGM_FI_DEV_GPU_UTIL 250\n", 1.0),
        (b"DCGM_FI_DEV_GPU_UTIL NaN\n", None),
        (b"DCGM_FI_DEV_GPU_UTIL -1\n", None),
        (b"DCGM_FI_DEV_GPU_UTIL much\n", None),
        (b"vllm:num_requests_running 3\n", None),
        (b"", None),
    ],
)
def test_what_the_figure_is_called(page: bytes, found: float | None) -> None:
    assert parse(page).of("ns", A) == found


def test_zero_is_idle_and_not_unknown() -> None:
    assert parse(b"DCGM_FI_DEV_GPU_UTIL 0\n").of("ns", A) == 0.0


@given(st.binary(max_size=200))
def test_any_page_can_be_read(page: bytes) -> None:
    found = parse(b"DCGM_FI_DEV_GPU_UTIL" + page + b"\nDCGM_FI_DEV_GPU_UTIL{" + page)
    assert isinstance(found, Busy)
    assert all(0.0 <= one <= 1.0 for figures in found.figures.values() for one in figures)

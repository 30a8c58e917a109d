"""How good decisions are: the picker itself, and others, in front of simulated servers in virtual time. See docs/quality.md.

Run: python -m benchmarks.quality [--quick] [--workload NAME]... [--policy NAME]... [--load SHARE]...; the last line is JSON.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks._fleet import SLOTS
from benchmarks._plot import draw
from benchmarks._policies import POLICIES
from benchmarks._score import row
from benchmarks._simulate import Simulation
from benchmarks._workloads import WORKLOADS, Request, Text, Workload, flood, neighbours, objective, shared
from penstock.sim.latency import Latency

SERVERS = 8
SECONDS = 60.0
QUICK_SECONDS = 8.0
QUICK_LOADS = (0.8, 1.4)
QUICK_WORKLOADS = ("objective",)
COLUMNS = (
    ("offered", "offered"), ("served", "served"), ("shed", "shed"), ("failed", "failed"), ("ttft_p50_ms", "p50"),
    ("ttft_p90_ms", "p90"), ("ttft_p99_ms", "p99"), ("tpot_p50_ms", "TPOT"), ("throughput", "tok/s"), ("hit_ratio", "hits"),
    ("goodput", "goodput"), ("jain", "Jain"),
)  # fmt: skip
SAME = {objective: shared, flood: shared, neighbours: shared}  # the same requests, as far as servers can tell


def simulate(
    workload: Workload, policy: str, requests: Sequence[Request], seconds: float, servers: int, seed: int
) -> Simulation:
    """One run. The requests are used up: they carry what became of them."""
    simulation = Simulation(workload, requests, seconds, servers, seed)
    simulation.run(POLICIES[policy](seed, simulation))
    return simulation


def ideal_capacity(servers: int, uncached: float, answer: float) -> float:
    """Requests a second of servers that are always full, from the formulas of the engine alone."""
    latency = Latency()
    prefill = latency.prefill(int(uncached), SLOTS, SLOTS)
    decoding = float(SLOTS)  # those that are not in their prefill: they alone slow a step down
    for _ in range(20):
        # The first token comes with the prefill, the second with a step that has begun already: half of one, on the average.
        decode = (answer - 1.5) * latency.decode_ms * (1.0 + latency.decode_slowdown * decoding / SLOTS) / 1000.0
        decoding = SLOTS * decode / (prefill + decode)
    return servers * SLOTS / (prefill + decode)


def capacity(workload: Workload, servers: int, seed: int) -> float:
    """Requests a second that leave servers which always have work, where the oracle sends them.

    Measured in an overload, 40 s of more than servers could do that had every prefix cached. Faults that pass do not count.
    """
    seconds, start = 40.0, 16.0
    lasting = tuple(fault for fault in workload.faults if fault.stop > 1)
    steady = replace(workload, faults=lasting, make=SAME.get(workload.make, workload.make))
    offered = ideal_capacity(servers, 70, 50) * 1.3
    requests = steady.make(Text(seed), offered, 1.0, seconds)
    simulate(steady, "oracle", requests, seconds, servers, seed)
    return sum(start <= one.end < seconds for one in requests if one.end is not None) / (seconds - start)


def rows(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    measured: dict[object, float] = {}
    for name in arguments.workload:
        workload = WORKLOADS[name]
        key = (SAME.get(workload.make, workload.make), workload.loras, any(fault.stop > 1 for fault in workload.faults))
        if key not in measured:
            measured[key] = capacity(workload, arguments.servers, arguments.seed)
        print(f"\n{name}: {workload.about}; capacity {measured[key]:.1f} requests/s")
        print(f"{'load':>5} {'policy':<28}" + "".join(f"{title:>8}" for _, title in COLUMNS))
        for load in arguments.load or workload.loads:
            for policy in arguments.policy:
                requests = workload.make(Text(arguments.seed), measured[key], load, arguments.seconds)
                began = time.perf_counter()
                simulate(workload, policy, requests, arguments.seconds, arguments.servers, arguments.seed)
                found = row(workload, load, policy, requests, arguments.seconds)
                found["wall_s"] = round(time.perf_counter() - began, 2)
                show(load, policy, found)
                for value, part in found.get("split", {}).items():
                    show(load, f"  {value}", part)
                yield found


def show(load: float, policy: str, found: dict[str, Any]) -> None:
    cells = "".join(f"{'-' if found.get(key) is None else found[key]:>8}" for key, _ in COLUMNS)
    print(f"{load:>5} {policy:<28}{cells}", flush=True)


def parsed(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("--workload", action="append", choices=tuple(WORKLOADS))
    parser.add_argument("--policy", action="append", choices=tuple(POLICIES))
    parser.add_argument("--load", action="append", type=float, help="share of the capacity")
    parser.add_argument("--seconds", type=float, help=f"of arrivals, virtual; default {SECONDS:g}")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--servers", type=int, default=SERVERS)
    parser.add_argument("--quick", action="store_true", help="one workload, two loads, and a short time")
    parser.add_argument("--earlier", action="append", type=Path, default=[], help="output of another run, to draw too")
    parser.add_argument("--plot", type=Path, help="write a picture here, e.g. docs/quality.svg")
    found = parser.parse_args(given)
    found.workload = found.workload or (QUICK_WORKLOADS if found.quick else tuple(WORKLOADS))
    found.policy = found.policy or tuple(POLICIES)
    found.load = found.load or (QUICK_LOADS if found.quick else None)
    found.seconds = found.seconds or (QUICK_SECONDS if found.quick else SECONDS)
    return found


def main(given: Sequence[str] | None = None) -> None:
    arguments = parsed(given)
    earlier = [json.loads(path.read_text(encoding="utf-8").splitlines()[-1])["rows"] for path in arguments.earlier]
    found = [*(one for part in earlier for one in part), *rows(arguments)]
    if arguments.plot:
        arguments.plot.write_text(draw(found), encoding="utf-8")
    print(json.dumps({"rows": found}))


if __name__ == "__main__":
    main()

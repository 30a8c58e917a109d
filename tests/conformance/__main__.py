"""The public conformance suites against Penstock: `make conformance`.

Gateway API's own suite, then the tests of the Inference Extension, then an HPA that scales by our metrics. What failed is quoted,
with Penstock's own log. Ends with a line per profile, and exit status 1 if anything failed. The report, in the suite's own format,
is written to --report.
"""

import argparse
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import yaml

from tests.conformance import inference
from tests.conformance.bench import NAMESPACE, ROOT, Bench, accepted, bench
from tests.conformance.said import Said

PROFILES = "GATEWAY-HTTP,GATEWAY-GRPC,GATEWAY-TLS,GATEWAY-TCP,GATEWAY-UDP"
SUITE = "gateway-api-conformance"
REPORT = ROOT / "docs" / "conformance" / "gateway-api-1.7.0.yaml"
PROJECT = {
    "organization": "penstock",
    "project": "penstock",
    "url": "https://penstock.dev",
    "contact": "https://penstock.dev/issues",
}


def main() -> int:
    given = _arguments()
    with bench(keep=given.keep) as made:
        accepted(made, given.gateway_class)
        suite = _suite(made)
        report = Path(given.report).resolve()
        report.parent.mkdir(parents=True, exist_ok=True)
        status = _run(made, suite, given, report)
        if given.run_test:
            return status
        others = inference.run(made, given.gateway_class, keep=given.keep)
    return _summary(report) or status or others or _scaling()


def _scaling() -> int:
    """The autoscaler of Kubernetes on our metrics, in a cluster of its own."""
    tests = Path(__file__).with_name("test_autoscale.py")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-v", str(tests)]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "PENSTOCK_CONFORMANCE": "1"}, check=False).returncode


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make conformance", description=__doc__)
    parser.add_argument("--gateway-class", default="penstock")
    parser.add_argument("--profiles", default=PROFILES)
    parser.add_argument("--run-test", default="", metavar="NAME", help="a single test, by its short name")
    parser.add_argument("--report", default=str(REPORT))
    parser.add_argument(
        "--usable", default="10.98.0.200", help="an address that a Service of this cluster can be given"
    )
    parser.add_argument("--unusable", default="192.0.2.1", help="an address that no Service can be given")
    parser.add_argument(
        "--keep", action="store_true", help="leave the cluster up, and the suite's base resources there"
    )
    parser.add_argument("--log", default="", metavar="FILE", help="also write the suite's output there")
    return parser.parse_args()


def _suite(made: Bench) -> str:
    named = os.environ.get("PENSTOCK_CONFORMANCE_SUITE") or shutil.which(SUITE)
    return named or made.run("sh", "-c", f"command -v {SUITE}").strip()


def _run(made: Bench, suite: str, given: argparse.Namespace, report: Path) -> int:
    flags = {
        "gateway-class": given.gateway_class,
        "conformance-profiles": given.profiles,
        "report-output": str(report),
        "version": version("penstock"),
        "usable-address": given.usable,
        "unusable-address": given.unusable,
        **PROJECT,
    }
    if given.run_test:
        flags["run-test"] = given.run_test
    if given.keep:
        flags["cleanup-base-resources"] = "false"
    command = [
        *made.prefix,
        suite,
        "-test.v",
        "-test.timeout=30m",
        *(f"--{name}={value}" for name, value in flags.items()),
    ]
    said = Said()
    with (
        Path(given.log or os.devnull).open("w") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd="/") as process,
    ):
        for line in process.stdout or ():
            log.write(line)
            if said.hear(line) or given.run_test:
                print(line, end="", flush=True)
    if process.returncode:
        print(*said.failures(), "=== Penstock's own log", _log(made), sep="\n")
    return process.returncode


def _log(made: Bench) -> str:
    pods = ("-n", NAMESPACE, "-l", "app.kubernetes.io/name=penstock")
    return made.kubectl("logs", *pods, "--prefix", "--tail=100", check=False)


def _summary(report: Path) -> int:
    """0 if nothing failed and nothing was skipped."""
    bad = 0
    for profile in yaml.safe_load(report.read_text())["profiles"]:
        for kind in ("core", "extended"):
            found = profile.get(kind, {})
            count = found.get("statistics", {})
            failed = found.get("failedTests", []) + found.get("skippedTests", [])
            bad += len(failed)
            print(
                f"{profile['name']:14}{kind:10}passed {count.get('Passed', 0)}, failed {count.get('Failed', 0)},"
                f" skipped {count.get('Skipped', 0)} {' '.join(failed)}"
            )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

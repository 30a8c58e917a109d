"""What it costs to make a route into bytes: the library as it is, with our encoder, and from a fragment that is known already.

`python -m benchmarks.encode`; the last line is JSON, in microseconds a route, best of five rounds.
"""

import json
import subprocess
import sys

_MEASURE = """
import sys, time
import betterproto2
own = betterproto2.Message._validate, betterproto2.Message._get_field_default
from xds_server.model.graph import Backend, Forward, Route, WeightedBackend
from xds_server.model.objects import HTTPMatch, ObjectRef, PathMatch
backend = Backend("service/ns/a/80", ObjectRef("", "Service", "ns", "a"))
routes = [Route(f"r{i}", HTTPMatch(PathMatch("PathPrefix", f"/p{i}")), Forward((WeightedBackend(backend),))) for i in range(200)]
from xds_server.translate.settings import DataPlane
if sys.argv[1] == "cached":
    from xds_server.translate import _route
    one = lambda each: _route(each, PLANE)
else:
    from xds_server.translate.route import route
    if sys.argv[1] == "library":  # importing translate has put in its own
        betterproto2.Message._validate, betterproto2.Message._get_field_default = own
    made = {each.name: route(each, DataPlane()) for each in routes}
    one = lambda each: bytes(made[each.name])
PLANE = DataPlane()
rounds = []
for _ in range(6):
    began = time.process_time()
    for each in routes:
        one(each)
    rounds.append((time.process_time() - began) / len(routes) * 1e6)
print(min(rounds[1:]))
"""


def measure(how: str) -> float:
    """Microseconds a route, in a process of its own: the encoder is put in for good."""
    command = [sys.executable, "-W", "ignore", "-c", _MEASURE, how]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    rows = [{"case": how, "us": round(measure(how), 2)} for how in ("library", "ours", "cached")]
    for row in rows:
        print(f"{row['case']:>8} {row['us']:10.2f} us a route")
    print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()

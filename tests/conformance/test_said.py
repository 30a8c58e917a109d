"""Sorting the output of tests that run side by side."""

from tests.conformance.said import Said

OUTPUT = """\
=== RUN   TestConformance
=== RUN   TestConformance/Exact
    apply.go:289: Creating exact
=== RUN   TestConformance/Exact/one
=== PAUSE TestConformance/Exact/one
=== RUN   TestConformance/Exact/two
=== PAUSE TestConformance/Exact/two
=== CONT  TestConformance/Exact/one
    http.go:1: asking for one
=== CONT  TestConformance/Exact/two
    http.go:1: asking for two
=== NAME  TestConformance/Exact/one
    http.go:2: got 500
--- FAIL: TestConformance (1.00s)
    --- FAIL: TestConformance/Exact (0.50s)
        --- FAIL: TestConformance/Exact/one (0.40s)
        --- PASS: TestConformance/Exact/two (0.10s)
    --- PASS: TestConformance/Other (0.50s)
    --- SKIP: TestConformance/Mesh (0.00s)
"""


def test_a_failed_test_is_quoted_and_no_other() -> None:
    said = Said()
    shown = [line.split()[2] for line in OUTPUT.splitlines() if said.hear(line)]
    assert shown == ["TestConformance", "TestConformance/Exact", "TestConformance/Exact/one", "TestConformance/Other"]
    assert list(said.failures()) == [
        "=== TestConformance",
        "=== TestConformance/Exact",
        "    apply.go:289: Creating exact",
        "=== TestConformance/Exact/one",
        "    http.go:1: asking for one",
        "    http.go:2: got 500",
    ]


def test_whoever_says_the_same_for_long_is_cut_short() -> None:
    said = Said()
    said.hear("=== RUN   T/x")
    for number in range(100):
        said.hear(f"line {number} {'x' * 1000}")
    said.hear("--- FAIL: T/x (30.00s)")
    found = list(said.failures())
    assert [line.split(" x")[0] for line in (found[1], found[20], found[21], found[22], found[41])] == [
        "line 0",
        "line 19",
        "    ... 60 more lines ...",
        "line 80",
        "line 99",
    ]
    assert max(map(len, found)) == 400

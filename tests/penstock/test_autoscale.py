"""`penstock autoscale`: what it asks and prints, and what it says where it cannot."""

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from ruamel.yaml import YAML

from observability.autoscaling import explain
from observability.autoscaling.signals import read
from penstock.autoscale import pool_name, target
from penstock.cli import main
from tests.e2e.waiting import free_port
from tests.picker.test_demand import demand, figures
from tests.threaded import threaded

FOUND = explain.document(read(demand(figures(waiting=4.0, age=1.0), queued=2)), 2)


@contextmanager
def telemetry(code: int, body: Any) -> Iterator[tuple[str, list[str]]]:
    """A gateway's telemetry server, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(code)
            self.end_headers()
            self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

        def log_message(self, *_: object) -> None:
            pass

    with threaded(Handler) as address:
        yield address, asked


def test_it_asks_the_gateway_and_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    with telemetry(200, FOUND) as (address, asked):
        assert main(["autoscale", "explain", "vllm", "--telemetry", address, "--labels", "a=b"]) == 0
    assert asked == ["/autoscale?pool=default%2Fvllm&labels=a%3Db"]
    text = capsys.readouterr().out
    assert text.startswith("pool ns/pool: 1 pod, at work, oldest figure 1.0 s old, 2 gateway replicas asked\n")
    assert text.rstrip("\n") == explain.text(FOUND)


def test_json_with_another_target_and_size(capsys: pytest.CaptureFixture[str]) -> None:
    with telemetry(200, FOUND) as (address, _):
        arguments = ("--telemetry", address, "--json", "--target", "queue=3", "--replicas", "4")
        assert main(["autoscale", "explain", "ns/pool", *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["signals"]["queue"]["target"], found["signals"]["queue"]["hpa"], found["pods"]) == (3.0, 2, 4)


@pytest.mark.parametrize(
    ("code", "body", "message"),
    [
        (404, {"error": "there is no InferencePool ns/x"}, "there is no InferencePool ns/x"),
        (503, {"error": "replica a is away"}, "replica a is away"),
        (404, b"nothing here", "is this a gateway's telemetry server?"),
        (200, b"<html>", "name the gateway's telemetry server"),
    ],
)
def test_what_the_gateway_cannot_tell_is_one_line(
    code: int, body: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with telemetry(code, body) as (address, _):
        assert main(["autoscale", "explain", "ns/x", "--telemetry", address]) == 1
    text = capsys.readouterr().err
    assert message in text and text.count("\n") == 1


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["autoscale", "explain", "ns/x", "--telemetry", f"127.0.0.1:{free_port()}"]) == 1
    assert "name the gateway's telemetry server with --telemetry" in capsys.readouterr().err


def test_names_and_targets() -> None:
    assert (pool_name("vllm"), pool_name("ns/vllm")) == ("default/vllm", "ns/vllm")
    assert target("saturation=0.7") == ("saturation", 0.7)
    for text in ("saturation", "saturation=0", "saturation=x", "cpu=1", "queue=inf"):
        with pytest.raises(argparse.ArgumentTypeError, match=r"write SIGNAL=NUMBER|write a number above 0"):
            target(text)


def test_manifests_are_yaml_of_the_pool(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--signal", "saturation", "--target", "0.7", "--deployment", "servers", "--max", "4")
    assert main(["autoscale", "manifests", "team/chat", *arguments]) == 0
    found = YAML(typ="safe").load(capsys.readouterr().out)
    assert found["metadata"] == {"name": "chat", "namespace": "team"}
    assert found["spec"]["scaleTargetRef"]["name"] == "servers"
    assert found["spec"]["metrics"][0]["external"]["target"] == {"type": "Value", "value": "700m"}


def test_what_cannot_be_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["autoscale", "manifests", "p", "--kind", "stackdriver"]) == 1
    assert "use queue or inflight" in capsys.readouterr().err
    assert main(["autoscale", "manifests", "p", "--min", "0"]) == 1
    assert "--kind keda" in capsys.readouterr().err

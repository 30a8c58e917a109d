"""A vLLM server as a process of ours: started on a free port, measured by its own /metrics, killed, stopped and started again."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from prometheus_client.parser import text_string_to_metric_families

from penstock.envoy import _LEASH
from tests.e2e.waiting import free_port

BLOCK = 32  # tokens; vLLM's CPU attention takes no smaller ones
KV_BYTES = 1024  # of one token of the model in model.py
BASE, ADAPTERS = "base", ("sql", "chat")
STARTS_WITHIN = 300.0  # seconds; 20 where nothing else runs
QUIET = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    "VLLM_SERVER_DEV_MODE": "1",  # /reset_prefix_cache
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine does the work itself: a process less
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # servers share the cores
    "OMP_NUM_THREADS": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
}


@dataclass(frozen=True, slots=True)
class Options:
    cache_tokens: int = 16384
    slots: int = 4
    arguments: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class Server:
    """`models` is what model.py wrote. The process is made by `start` and ended by `kill` or `stop`."""

    vllm: Path
    models: Path
    log: Path
    options: Options = Options()
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        adapters = [f"{name}={self.models / name}" for name in ADAPTERS]
        events = {
            "enable_kv_cache_events": True,
            "publisher": "zmq",
            "endpoint": "tcp://*:0",  # a free port of VLLM_HOST_IP; /kv_event_sources tells which
            "topic": f"kv@{self.address}@{BASE}",
        }
        flags = {
            "host": "127.0.0.1",
            "port": self.port,
            "served-model-name": BASE,
            "dtype": "bfloat16",
            "max-model-len": 8192,
            "max-num-seqs": self.options.slots,
            "max-num-batched-tokens": 2048,
            "block-size": BLOCK,
            "kv-cache-memory-bytes": self.options.cache_tokens * KV_BYTES,
            "max-loras": 1,
            "max-cpu-loras": 4,
            "max-lora-rank": 8,
            "kv-events-config": json.dumps(events),
        }
        command = [self.vllm, "serve", self.models / BASE, "--lora-modules", *adapters]
        command += ["--enable-lora", "--enable-prefix-caching", "--enable-prompt-tokens-details", "--enforce-eager"]
        command += [f"--{name}={value}" for name, value in flags.items()]
        nice = [shutil.which("nice"), "-n", "5"] if shutil.which("nice") else []
        leash = [sys.executable, "-S", "-c", _LEASH]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*leash, *nice[:1], *nice[1:], *command, *self.options.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=os.environ
                | QUIET
                | {"VLLM_CACHE_ROOT": str(self.models / "cache")}
                | dict(self.options.environment),
            )

    def ready(self) -> None:
        """Waits until it serves, and has served: the first prompt of all must have several tokens, or the CPU's attention dies."""
        deadline = time.monotonic() + STARTS_WITHIN
        while not self._healthy():
            assert self.process is not None
            assert self.process.poll() is None, f"vLLM ended: {self.last_words()}"
            assert time.monotonic() < deadline, f"vLLM did not start within {STARTS_WITHIN:.0f} s: {self.last_words()}"
            time.sleep(0.2)
        for model in (BASE, *ADAPTERS):
            self.post("/v1/completions", {"model": model, "prompt": "a sentence to warm up with", "max_tokens": 2})

    def engine(self) -> psutil.Process:
        """The process in which requests are worked on; the other one speaks HTTP."""
        (found,) = [
            each
            for each in psutil.Process(self._pid).children(recursive=True)
            if "EngineCore" in each.name() or "EngineCore" in " ".join(each.cmdline())
        ]
        return found

    def kill(self) -> None:
        """All of it at once, as when its machine dies."""
        self._signal(signal.SIGKILL)
        self._wait(30)

    def stop(self) -> None:
        """As an operator would; then by force."""
        if self.process is not None and self.process.poll() is None:
            self._signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self._wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
        self._signal(signal.SIGKILL)  # whatever it left

    def reset(self) -> None:
        """Empties its prefix cache."""
        self.post("/reset_prefix_cache", {})

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://{self.address}/metrics", timeout=10) as answer:
            return answer.read().decode()

    def counts(self, *names: str) -> tuple[float, ...]:
        """The sums of these families' samples now."""
        found = dict.fromkeys(names, 0.0)
        for family in text_string_to_metric_families(self.metrics()):
            for sample in family.samples:
                if sample.name in found:
                    found[sample.name] += sample.value
        return tuple(found.values())

    def post(self, path: str, body: object) -> bytes:
        request = urllib.request.Request(
            f"http://{self.address}{path}", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read()

    def last_words(self, lines: int = 8) -> str:
        told = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return " | ".join(told[-lines:])

    @property
    def _pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.address}/health", timeout=2) as answer:
                return answer.status == 200
        except OSError:
            return False

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._pid, number)  # its session, which is ours alone

    def _wait(self, seconds: float) -> None:
        assert self.process is not None
        self.process.wait(seconds)

"""An endpoint picker for tests, in the place of the Inference Extension's: `--pool-name` and `--pool-namespace` say whose.

It speaks the endpoint-picker protocol (Gateway API Inference Extension proposal 004) as its lightweight picker does: it holds
the headers back until the body has come where the gateway streams both ways (FULL_DUPLEX_STREAMED), and takes turns among the
ready endpoints of its pool that request header `test-epp-endpoint-selection` names (addresses or ip:port, comma separated;
without it, all). The backend gets request headers `x-test-epp-*`: whose picker was asked and how; the client gets
`x-conformance-test-served-endpoint`: what the gateway says served the request. TLS with a certificate that nobody knows, unless
`--secure-serving=false`. It misbehaves where request header `test-epp-behaviour` or the variable TEST_EPP_BEHAVIOUR says so:

  abort      ends the stream with an error     hang     never answers     slow=S   answers after S seconds
  refuse=N   answers the client with status N  list     names all that were selected, in their order, known or not
"""

import argparse
import asyncio
import datetime as dt
import json
import os
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from envoy.extensions.filters.http.ext_proc.v3 import processing_mode_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2

SELECTION, BEHAVIOUR = "test-epp-endpoint-selection", "test-epp-behaviour"
REPORTED = "x-conformance-test-served-endpoint"
ASKED_POOL, ASKED_MODE = "x-test-epp-pool", "x-test-epp-mode"
DESTINATION = "x-gateway-destination-endpoint"
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
POOLS = "/apis/inference.networking.k8s.io/v1"
FRESH = 0.3  # seconds that a listing of endpoints is used

_Request: Any = external_processor_pb2.ProcessingRequest
_Response: Any = external_processor_pb2.ProcessingResponse
_Mode: Any = processing_mode_pb2.ProcessingMode


class Pool:
    """The endpoints of one InferencePool, asked of the API server as the pod's account."""

    def __init__(self, api: aiohttp.ClientSession, namespace: str, name: str) -> None:
        self._api, self._namespace, self.name = api, namespace, name
        self._known: list[str] = []
        self._until = 0.0
        self._turn = 0

    async def endpoints(self) -> list[str]:
        """Each ready pod at each target port."""
        if time.monotonic() > self._until:
            pool = await self._get(f"{POOLS}/namespaces/{self._namespace}/inferencepools/{self.name}")
            labels = pool["spec"]["selector"]["matchLabels"]
            wanted = ",".join(f"{key}={value}" for key, value in labels.items())
            pods = await self._get(f"/api/v1/namespaces/{self._namespace}/pods", labelSelector=wanted)
            ports = [each["number"] for each in pool["spec"]["targetPorts"]]
            addresses = sorted(each["status"]["podIP"] for each in pods["items"] if ready(each))
            self._known = [f"{address}:{port}" for address in addresses for port in ports]
            self._until = time.monotonic() + FRESH
        return self._known

    async def pick(self, selection: str) -> list[str]:
        """One of those that were selected, by turns; none if the pool has none of them."""
        wanted = words(selection)
        found = [each for each in await self.endpoints() if not wanted or {each, each.rpartition(":")[0]} & set(wanted)]
        self._turn += 1
        return [found[self._turn % len(found)]] if found else []

    async def _get(self, path: str, **query: str) -> Any:
        token = (ACCOUNT / "token").read_text()
        async with self._api.get(path, params=query, headers={"Authorization": f"Bearer {token}"}) as answer:
            answer.raise_for_status()
            return await answer.json()


@dataclass
class Session:
    """One request of a gateway: messages in, messages out."""

    pool: Pool
    headers: dict[str, str] = field(default_factory=dict)
    mode: int = _Mode.NONE
    held: list[bytes] = field(default_factory=list)  # the body, while the headers are held back
    decided: bool = False

    @property
    def behaviour(self) -> str:
        return self.headers.get(BEHAVIOUR) or os.environ.get("TEST_EPP_BEHAVIOUR", "")

    async def receive(self, message: Any) -> list[Any]:
        match message.WhichOneof("request"):
            case "request_headers":
                return await self._request_headers(message)
            case "request_body":
                return await self._request_body(message.request_body)
            case "request_trailers":
                return [*await self._release(ended=False), _Response(request_trailers={})]
            case "response_headers":
                return [_set("response_headers", {REPORTED: served(message)})]
            case "response_body":
                duplex = message.protocol_config.response_body_mode or self.mode
                if duplex == _Mode.FULL_DUPLEX_STREAMED:
                    return [_chunk("response_body", message.response_body.body, message.response_body.end_of_stream)]
                return [_Response(response_body={})]
            case "response_trailers":
                return [_Response(response_trailers={})]
        return []

    async def _request_headers(self, message: Any) -> list[Any]:
        found = message.request_headers
        self.headers = {each.key: (each.raw_value or each.value.encode()).decode() for each in found.headers.headers}
        self.mode = message.protocol_config.request_body_mode
        if found.end_of_stream or self.mode == _Mode.NONE:
            return [await self._decide("request_headers")]
        return [] if self.mode == _Mode.FULL_DUPLEX_STREAMED else [_Response(request_headers={})]

    async def _request_body(self, found: Any) -> list[Any]:
        if self.mode != _Mode.FULL_DUPLEX_STREAMED:
            return [_Response(request_body={}) if self.decided else await self._decide("request_body")]
        if self.decided:
            return [_chunk("request_body", found.body, found.end_of_stream)]
        self.held.append(found.body)
        return await self._release(ended=True) if found.end_of_stream else []

    async def _release(self, *, ended: bool) -> list[Any]:
        if self.decided or self.mode != _Mode.FULL_DUPLEX_STREAMED:
            return []
        last = len(self.held) - 1
        body = [_chunk("request_body", each, ended and number == last) for number, each in enumerate(self.held)]
        return [await self._decide("request_headers"), *body]

    async def _decide(self, part: str) -> Any:
        self.decided = True
        selection = self.headers.get(SELECTION, "")
        picked = words(selection) if self.behaviour == "list" else await self.pool.pick(selection)
        if not picked:
            return _Response(immediate_response={"status": {"code": 503}, "details": "no-ready-endpoint"})
        told = {
            DESTINATION: ",".join(picked),
            ASKED_POOL: self.pool.name,
            ASKED_MODE: _Mode.BodySendMode.Name(self.mode),
        }
        reply = _set(part, told)
        fields = reply.dynamic_metadata.fields["envoy.lb"].struct_value.fields
        fields[DESTINATION].string_value = told[DESTINATION]
        return reply


def served(message: Any) -> str:
    metadata = message.metadata_context.filter_metadata
    if "envoy.lb" not in metadata:
        return "no metadata envoy.lb"
    return metadata["envoy.lb"].fields[f"{DESTINATION}-served"].string_value or "not told"


def ready(pod: dict[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions", ())
    return any((each["type"], each["status"]) == ("Ready", "True") for each in conditions)


def words(text: str) -> list[str]:
    return [each.strip() for each in text.split(",") if each.strip()]


def _set(part: str, headers: dict[str, str]) -> Any:
    reply = _Response()
    mutation = getattr(reply, part).response.header_mutation
    for name, value in headers.items():
        mutation.set_headers.add(
            header={"key": name, "raw_value": value.encode()}, append_action="OVERWRITE_IF_EXISTS_OR_ADD"
        )
    return reply


def _chunk(part: str, body: bytes, ended: bool) -> Any:
    streamed = {"body": body, "end_of_stream": ended}
    return _Response(**{part: {"response": {"body_mutation": {"streamed_response": streamed}}}})


async def misbehave(session: Session, context: Any) -> Any:
    """What the request asks for instead of a decision; a message to answer with, or None to go on."""
    name, _, value = session.behaviour.partition("=")
    match name:
        case "abort":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "as the request asked")
        case "hang":
            await asyncio.Event().wait()
        case "slow":
            await asyncio.sleep(float(value))
        case "refuse":
            return _Response(immediate_response={"status": {"code": int(value)}, "details": "as-the-request-asked"})
    return None


def handlers(pool: Pool) -> Any:
    async def process(messages: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        session, first = Session(pool), True
        async for message in messages:
            replies = await session.receive(message)
            if first and (instead := await misbehave(session, context)) is not None:
                replies = [instead]
            first = False
            for reply in replies:
                yield reply

    method = grpc.stream_stream_rpc_method_handler(process, _Request.FromString, _Response.SerializeToString)
    return grpc.method_handlers_generic_handler("envoy.service.ext_proc.v3.ExternalProcessor", {"Process": method})


def health() -> Any:
    async def check(_request: bytes, _context: Any) -> bytes:
        return b"\x08\x01"  # HealthCheckResponse{status: SERVING}

    method = grpc.unary_unary_rpc_method_handler(check)
    return grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": method})


def self_signed() -> Any:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "picker")])
    now = dt.datetime.now(dt.UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(now - dt.timedelta(days=1)).not_valid_after(now + dt.timedelta(days=30))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return grpc.ssl_server_credentials(
        [(private, made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))]
    )


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pool-name", required=True)
    parser.add_argument("--pool-namespace", required=True)
    parser.add_argument("--grpc-port", type=int, default=9002)
    parser.add_argument("--grpc-health-port", type=int, default=9003)
    parser.add_argument("--secure-serving", type=json.loads, default=True)
    given, _ = parser.parse_known_args()
    server, probes = grpc.aio.server(), grpc.aio.server()
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt")))
    async with aiohttp.ClientSession(f"https://{host}:{port}", connector=connector) as api:
        server.add_generic_rpc_handlers((handlers(Pool(api, given.pool_namespace, given.pool_name)), health()))
        if given.secure_serving:
            server.add_secure_port(f"[::]:{given.grpc_port}", self_signed())
        else:
            server.add_insecure_port(f"[::]:{given.grpc_port}")
        probes.add_generic_rpc_handlers((health(),))
        probes.add_insecure_port(f"[::]:{given.grpc_health_port}")
        await server.start()
        await probes.start()
        await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())

"""Who we are to Cloud Monitoring: the labels of the monitored resource `prometheus_target`.

What is given goes first, then the environment, then the metadata server of Compute Engine and GKE, which is asked only for what
is still missing. Two writers with equal labels would corrupt each other's series, so `instance` has the name of the pod or host.
Source: Cloud Monitoring's list of monitored resources; the metadata server's documentation.
"""

import os
import socket
from asyncio import gather
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp

_METADATA = "metadata.google.internal"
_PATHS = {
    "project_id": "project/project-id",
    "cluster": "instance/attributes/cluster-name",
    "location": "instance/attributes/cluster-location",  # of the cluster
    "zone": "instance/zone",  # of the machine: projects/NUMBER/zones/ZONE
}
_LONGEST = 1024  # bytes of an answer that is read


class UnknownTarget(Exception):
    """A label that neither the user nor the machine could tell."""


@dataclass(frozen=True, slots=True)
class Given:
    """What the user says; "" where nothing."""

    project: str = ""
    location: str = ""
    cluster: str = ""
    namespace: str = ""
    instance: str = ""


async def target(given: Given, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """All labels of prometheus_target. Raises UnknownTarget."""
    project = given.project or environment.get("GOOGLE_CLOUD_PROJECT", "")
    known = {"project_id": project, "location": given.location, "cluster": given.cluster}
    machine = {} if all(known.values()) else await metadata(environment.get("GCE_METADATA_HOST") or _METADATA)
    zone = machine.get("zone", "").rpartition("/")[2]
    found = {
        "project_id": project or machine.get("project_id", ""),
        "location": given.location or machine.get("location", "") or zone,
        "cluster": given.cluster or machine.get("cluster", "") or ("__gce__" if machine else "none"),
        "namespace": given.namespace or environment.get("POD_NAMESPACE", "") or "default",
        "job": "penstock",
        "instance": given.instance or environment.get("POD_NAME", "") or socket.gethostname(),
    }
    for label, option in (("project_id", "--project"), ("location", "--location")):
        if not found[label]:
            raise UnknownTarget(
                f"Cloud Monitoring needs the {label} of what it stores: there is no metadata server here that knows it; set {option}"
            )
    return found


async def metadata(host: str, patience: float = 1.0) -> dict[str, str]:
    """What the metadata server says; empty where there is none. It answers within milliseconds, or is not there."""
    timeout = aiohttp.ClientTimeout(total=patience)
    async with aiohttp.ClientSession(timeout=timeout, headers={"Metadata-Flavor": "Google"}) as session:

        async def ask(path: str) -> str:
            try:
                async with session.get(f"http://{host}/computeMetadata/v1/{path}", allow_redirects=False) as answer:
                    if answer.status != 200 or answer.headers.get("Metadata-Flavor") != "Google":
                        return ""
                    return (await answer.content.read(_LONGEST)).decode("utf-8", "replace").strip()
            except (aiohttp.ClientError, TimeoutError, OSError):
                return ""

        answers = await gather(*(ask(path) for path in _PATHS.values()))
    return {name: answer for name, answer in zip(_PATHS, answers, strict=True) if answer}

"""Access: where the API server is, by kubeconfig and in a pod; and that no generated model is loaded for it."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from xds_server.kubernetes import access
from xds_server.kubernetes.access import AccessError, load

CONFIG = """
apiVersion: v1
kind: Config
current-context: one
clusters:
- {{name: one, cluster: {{server: "http://one.example:8001/"}}}}
- {{name: two, cluster: {{server: "http://two.example:8001"}}}}
users:
- {{name: one, user: {{token: secret-token}}}}
- {{name: two, user: {{exec: {{apiVersion: client.authentication.k8s.io/v1, command: {command}, args: [{args}]}}}}}}
contexts:
- {{name: one, context: {{cluster: one, user: one}}}}
- {{name: two, context: {{cluster: two, user: two}}}}
"""
PLUGIN = """
import json, pathlib
count = pathlib.Path(__file__).with_suffix(".count")
times = int(count.read_text()) + 1 if count.exists() else 1
count.write_text(str(times))
status = {"token": f"token-{times}", "expirationTimestamp": "2000-01-01T00:00:00Z"}
print(json.dumps({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}))
"""


@pytest.fixture
def kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    plugin = tmp_path / "plugin.py"
    plugin.write_text(PLUGIN)
    path = tmp_path / "config"
    path.write_text(CONFIG.format(command=sys.executable, args=plugin))
    return path


async def test_the_current_context_and_a_named_one(kubeconfig: Path) -> None:
    found = await load(str(kubeconfig))
    assert found.host == "http://one.example:8001" and await found.token(False) == "Bearer secret-token"
    assert (await load(str(kubeconfig), "two")).host == "http://two.example:8001"


async def test_the_environment_names_the_file(kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", f"/nowhere:{kubeconfig}")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")  # what was named wins
    assert (await load()).host == "http://one.example:8001"


async def test_a_plugin_s_token_is_renewed_when_it_is_refused(
    kubeconfig: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = await load(str(kubeconfig), "two")
    assert await found.token(False) == await found.token(False) == "Bearer token-1"
    monkeypatch.setattr(access, "_REFUSED", -1.0)
    assert await found.token(True) == "Bearer token-2"


async def test_in_a_pod_the_service_account_is_used_and_its_token_read_again(
    kubeconfig: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("from-the-pod\n")
    (tmp_path / "ca.crt").write_text(authority())
    config = access._configuration()
    files = {"token_filename": str(tmp_path / "token"), "cert_filename": str(tmp_path / "ca.crt")}
    real = config.load_incluster_config
    config.load_incluster_config = lambda **arguments: real(**arguments, **files)
    monkeypatch.setattr(access, "_configuration", lambda: config)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    found = await load()
    assert found.host == "https://[fd00::1]:443" and found.tls and await found.token(False) == "Bearer from-the-pod"
    (tmp_path / "token").write_text("a-newer-one\n")
    assert await found.token(False) == "Bearer from-the-pod"
    assert await found.token(True) == "Bearer a-newer-one"


async def test_what_cannot_be_used_is_said_with_its_remedy(kubeconfig: Path) -> None:
    for named, context, message in [
        ("/nowhere/config", None, "no kubeconfig at /nowhere/config"),
        (None, None, "no kubeconfig at ~/.kube/config and no service account; name one"),
        (str(kubeconfig), "three", "three"),
    ]:
        with pytest.raises(AccessError, match=message):
            await load(named, context)


def test_only_the_configuration_is_loaded_and_the_rest_still_can_be() -> None:
    program = (
        "import sys; from xds_server.kubernetes.access import _configuration; _configuration();"
        "assert not [name for name in sys.modules if name.startswith('kubernetes_asyncio')], sys.modules;"
        "assert not [name for name in sys.modules if 'client.models' in name];"
        "import kubernetes_asyncio.client as c; assert c.V1Pod and c.ApiClient"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=60)


def authority() -> str:
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime(2026, 1, 1, tzinfo=UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ca")])
    unsigned = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    unsigned = unsigned.serial_number(1).not_valid_before(now).not_valid_after(now.replace(year=2100))
    return unsigned.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()

"""Where the API server is and as whom we speak to it: a kubeconfig, or the service account of the pod we run in.

kubernetes-asyncio knows the formats and the ways to refresh a token (exec plugins, OIDC, files). Of it only the configuration
is loaded: its package imports 700 generated models, which cost 38 MiB of memory and which nothing here needs.
"""

import asyncio
import importlib.util
import os
import ssl
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

_REFUSED = 1.0  # seconds between two renewals of a token, refused or not
_REFRESH = 30.0  # seconds between looks at whether a kubeconfig's token has expired


class AccessError(Exception):
    """The configuration does not say how to reach an API server."""


@dataclass(frozen=True, slots=True)
class Access:
    """An API server and our credentials for it."""

    host: str  # https://address:port
    token: Callable[[bool], Awaitable[str]]  # the Authorization header, or ""; True: the last one was refused
    tls: ssl.SSLContext | None = None
    server_name: str | None = None  # where the certificate names another host than `host`
    proxy: str | None = None


def anonymous(host: str) -> Access:
    """Access without credentials, as to `kubectl proxy`."""

    async def token(refused: bool) -> str:  # noqa: ARG001 - the signature of those that have something to await
        return ""

    return Access(host, token)


async def load(kubeconfig: str | None = None, context: str | None = None) -> Access:
    """Access by `kubeconfig` if one is named, else by KUBECONFIG, else in-cluster, else by ~/.kube/config.

    In a pod the service account wins over a home directory that the image may have. Raises AccessError.
    """
    named = kubeconfig or os.environ.get("KUBECONFIG") or ""
    config = _configuration()
    try:
        if not named and context is None and os.environ.get("KUBERNETES_SERVICE_HOST"):
            return _in_cluster(config)
        return await _kubeconfig(config, named or "~/.kube/config", context)
    except (config.ConfigException, OSError, ValueError) as error:
        where = f"kubeconfig {named}" if named else "the service account"
        raise AccessError(f"{where} cannot be used ({error}); correct it or name another with --kubeconfig") from error


def _in_cluster(config: Any) -> Access:
    settings = config.Configuration()
    config.load_incluster_config(client_configuration=settings)

    async def token(refused: bool) -> str:
        if refused:  # read the file again, not in a minute
            config.load_incluster_config(client_configuration=settings)
        return await _key(settings)

    return _access(settings, token)


async def _kubeconfig(config: Any, path: str, context: str | None) -> Access:
    settings = config.Configuration()

    def files(paths: str) -> list[str]:
        return [found for each in paths.split(os.pathsep) if os.path.exists(found := os.path.expanduser(each))]  # noqa: PTH110, PTH111 - a search path, not one file

    if not await asyncio.to_thread(files, path):
        raise AccessError(f"no kubeconfig at {path} and no service account; name one with --kubeconfig or KUBECONFIG")
    await config.load_kube_config(path, context=context, client_configuration=settings, persist_config=False)
    loop = asyncio.get_running_loop()
    looked = loop.time()
    busy = asyncio.Lock()  # an exec plugin may ask a person: once, not once for each request in flight

    async def token(refused: bool) -> str:
        nonlocal looked
        async with busy:
            if loop.time() - looked > (_REFUSED if refused else _REFRESH):
                await config.load_kube_config(
                    path, context=context, client_configuration=settings, persist_config=False
                )
                looked = loop.time()
        return await _key(settings)

    return _access(settings, token)


async def _key(settings: Any) -> str:
    return (await settings.get_api_key_with_prefix("BearerToken") or "").strip()


def _access(settings: Any, token: Callable[[bool], Awaitable[str]]) -> Access:
    tls = None
    if settings.host.startswith("https:"):
        tls = ssl.create_default_context(cafile=settings.ssl_ca_cert)
        if settings.cert_file:
            tls.load_cert_chain(settings.cert_file, settings.key_file)
        if not settings.verify_ssl:
            tls.check_hostname = False
            tls.verify_mode = ssl.CERT_NONE
    host = settings.host.rstrip("/")
    return Access(host, token, tls, settings.tls_server_name, settings.proxy or _proxy(host))


def _proxy(host: str) -> str | None:
    """That of the environment (HTTPS_PROXY, NO_PROXY), as kubectl takes it; aiohttp would read ~/.netrc as well."""
    url = urlsplit(host)
    return None if proxy_bypass(url.hostname or "") else getproxies().get(url.scheme)


def _configuration() -> Any:
    """kubernetes_asyncio.config with Configuration, without the generated client.

    While it is imported, two packages are stood in for by empty ones of the same path; afterwards everything is taken out of
    `sys.modules` again, so that whoever imports kubernetes_asyncio in earnest gets all of it.
    """
    top = "kubernetes_asyncio"
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == top}
    for name in before:
        del sys.modules[name]
    try:
        _bare(top)
        client = _bare(f"{top}.client")
        configuration = importlib.import_module(f"{top}.client.configuration")
        vars(client).update(Configuration=configuration.Configuration, ApiClient=None)
        config = importlib.import_module(f"{top}.config")
        found = ModuleType("configuration")
        vars(found).update(vars(config), Configuration=configuration.Configuration)
        return found
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == top]:
            del sys.modules[name]
        sys.modules.update(before)


def _bare(name: str) -> ModuleType:
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise AccessError(f"package {name} is not installed; install the project's dependencies")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    return module

"""The models of a simulated server: what it serves, lists, loads and unloads, in vLLM's shapes."""

from collections.abc import Callable
from functools import partial
from typing import Any

import orjson
from aiohttp import web

from penstock.sim import api


class Models:
    """Names of one base model, and adapters of it, which come and go by `/v1/load_lora_adapter` and `/v1/unload_lora_adapter`."""

    def __init__(self, names: tuple[str, ...], adapters: tuple[str, ...], max_model_len: int) -> None:
        self.names = names
        self.adapters = dict.fromkeys(adapters)
        self._entry = {"object": "model", "created": 0, "owned_by": "vllm", "max_model_len": max_model_len}

    def adapter(self, model: str) -> str:
        """The adapter that a request for this model needs, "" for none. Raises ApiError (404)."""
        if model in self.names:
            return ""
        if model not in self.adapters:
            raise api.unknown_model(model, (*self.names, *self.adapters))
        return model

    def load(self, name: str) -> str:
        """What the server says of it. Raises ApiError."""
        if name in self.adapters:
            raise api.ApiError(400, "InvalidUserInput", f"The lora adapter '{name}' has already been loaded.")
        self.adapters[name] = None
        return f"Success: LoRA adapter '{name}' added successfully."

    def unload(self, name: str) -> str:
        """What the server says of it. Raises ApiError."""
        if name not in self.adapters:
            raise api.ApiError(404, "NotFoundError", f"The lora adapter '{name}' cannot be found.")
        del self.adapters[name]
        return f"Success: LoRA adapter '{name}' removed successfully."

    def add_routes(self, app: web.Application) -> None:
        app.router.add_get("/v1/models", self._list)
        app.router.add_post("/v1/load_lora_adapter", partial(_change, self.load))
        app.router.add_post("/v1/unload_lora_adapter", partial(_change, self.unload))

    async def _list(self, _: web.Request) -> web.Response:
        base = self.names[0]
        found: list[dict[str, Any]] = [{"id": name, "root": base, "parent": None, **self._entry} for name in self.names]
        found += [{"id": name, "root": name, "parent": base, **self._entry} for name in self.adapters]
        return web.Response(body=orjson.dumps({"object": "list", "data": found}), content_type="application/json")


async def _change(act: Callable[[str], str], request: web.Request) -> web.Response:
    try:
        return web.Response(text=act(_name(await request.read())))
    except api.ApiError as error:
        return web.Response(status=error.status, body=error.body(), content_type="application/json")


def _name(body: bytes) -> str:
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        fields = None
    name = fields.get("lora_name") if isinstance(fields, dict) else None
    if not isinstance(name, str) or not name:
        raise api.ApiError(400, "InvalidUserInput", "'lora_name' must be given.")
    return name

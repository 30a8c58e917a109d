"""InferenceRequest: what a decision needs of one HTTP request, read once.

Which path carries which body: OpenAI API reference, Anthropic Messages, vLLM 0.32 and SGLang HTTP servers. A path that none of
them knows passes through unread: it is routed by load alone. The body is never changed here: see splice.py.
"""

import re
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson
from xxhash import xxh3_64_hexdigest, xxh3_64_intdigest

from picker.errors import BadRequest
from picker.outline import LONG, MARK, Outline, nested, outline
from xds_server.model.names import FAIRNESS_HEADER, OBJECTIVE_HEADER, REWRITE_HEADERS

Dialect = Literal["openai", "anthropic"]
# Whether the answer tells how many tokens it took. told: it does, or it is the server's to say; silent: a stream of OpenAI's
# completions that was not asked to; declined: the same, with stream_options that say no.
Usage = Literal["told", "silent", "declined"]

MAX_BODY = 32 << 20  # bytes; images travel inline as base64
MAX_PARTS = 1 << 17  # messages, parts of them, prompts of a batch: more would hold up the requests of all others

# The first of each list that is present wins; the later ones are what earlier releases and coding agents send.
OBJECTIVE_HEADERS = ("x-llm-d-inference-objective", OBJECTIVE_HEADER)
FAIRNESS_HEADERS = ("x-llm-d-inference-fairness-id", FAIRNESS_HEADER)
SESSION_HEADERS = ("x-session-id", "x-session-token", "x-claude-code-session-id", "x-session-affinity", "session-id")
DEFAULT_FLOW = "default-flow"
# Types of parts that are media. Sources: OpenAI chat and responses, vLLM multimodal inputs, Anthropic messages.
MEDIA = frozenset(("image", "image_url", "input_image", "video_url", "audio_url", "input_audio", "document"))
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """One request, as the client sent it.

    `prompt` is canonical bytes for hashing, its text as JSON writes it: a conversation that grows keeps its prefix.
    """

    path: str  # without the query
    dialect: Dialect = "openai"
    model: str = ""  # "" where the path passes through, or where the server has one model and the body names none
    streaming: bool = False
    prompt: bytes = b""
    cache_salt: str = ""  # vLLM: requests share cached prefixes only within one salt
    max_tokens: int | None = None
    body_bytes: int = 0
    objective: str = ""  # as asked for by header
    fairness_id: str = DEFAULT_FLOW
    session_id: str = ""  # a hash: the header may as well be a credential, and equality is all that is needed
    rewrite: str = ""  # the model to ask the server for, by header
    user_agent: str = ""
    request_id: str = ""  # x-request-id
    headers: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)  # lower-case names
    body: bytes = field(default=b"", repr=False, compare=False)  # where it was read
    media: tuple[int, ...] = ()  # hashes of the images, videos and sounds among the prompt's parts
    usage: Usage = "told"

    @property
    def prompt_tokens(self) -> int:
        """An estimate: 4 bytes a token."""
        return len(self.prompt) // 4


def parse(headers: Mapping[str, str], body: bytes, max_body: int = MAX_BODY) -> InferenceRequest:
    """Read one request; `headers` have lower-case names and include `:method` and `:path`. Raises BadRequest (400, 413)."""
    if len(body) > max_body:
        raise BadRequest(f"the body is larger than {max_body} bytes", "", 413, "body_too_large")
    kind = kind_of(headers)
    if kind is None:
        return without_body(headers, len(body))
    content, read = _object(body)
    return InferenceRequest(
        path=_path(headers),
        dialect=kind.dialect,
        model=_model(content, kind),
        streaming=content.get("stream") is True,
        prompt=_written(kind.prompt(content), read),
        cache_salt=_salt(content, read),
        max_tokens=_max_tokens(content),
        body_bytes=len(body),
        objective=_first(headers, OBJECTIVE_HEADERS),
        fairness_id=_first(headers, FAIRNESS_HEADERS) or DEFAULT_FLOW,
        session_id=_session(headers),
        rewrite=_first(headers, REWRITE_HEADERS),
        user_agent=headers.get("user-agent", ""),
        request_id=headers.get("x-request-id", ""),
        headers=headers,
        body=body,
        media=_media(content, read),
        usage="told" if kind.tells_usage or _path(headers).endswith("/render") else _usage(content),
    )


def without_body(headers: Mapping[str, str], body_bytes: int = 0) -> InferenceRequest:
    """A request whose body is absent or not for us to read: what the headers alone say."""
    path = _path(headers)
    return InferenceRequest(
        path=path,
        dialect="anthropic" if path.endswith(("/messages", "/messages/count_tokens")) else "openai",
        body_bytes=body_bytes,
        objective=_first(headers, OBJECTIVE_HEADERS),
        fairness_id=_first(headers, FAIRNESS_HEADERS) or DEFAULT_FLOW,
        session_id=_session(headers),
        user_agent=headers.get("user-agent", ""),
        request_id=headers.get("x-request-id", ""),
        headers=headers,
    )


# --- what each path's prompt is ---------------------------------------------------------------------------------------

Prompt = str | bytes  # text, or token ids


def _written(prompt: Prompt, read: Outline) -> bytes:
    """Text as JSON writes it, since it stays so in strings that are passed by."""
    return prompt if isinstance(prompt, bytes) else read.whole(orjson.dumps(prompt), skip=1)


def _messages(content: Mapping[str, Any]) -> str:
    """Chat: what chat templates render first comes first: tools, system (Anthropic), then each message."""
    messages = content.get("messages")
    if not isinstance(messages, list):
        raise BadRequest("the field 'messages' must be a list of objects", "messages")
    parts: list[str] = []
    _count(messages, "messages", parts)
    tools = content.get("tools")
    if tools:
        parts.append(_json(tools, "tools"))
    system = content.get("system")
    if system:
        parts.append("\0system\0")
        _content(system, "system", parts)
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise BadRequest(f"the field 'messages[{index}]' must be an object", f"messages[{index}]")
        parts.append(_role(message))
        _content(message.get("content"), "messages", parts)
        calls = message.get("tool_calls")
        if calls:
            parts.append(_json(calls, "messages"))
    return "".join(parts)


def _role(message: Mapping[str, Any]) -> str:
    role = message.get("role")
    return f"\0{role}\0" if isinstance(role, str) else "\0\0"


def _count(items: list[Any], name: str, parts: list[Any]) -> None:
    if len(items) + len(parts) > MAX_PARTS:
        raise BadRequest(f"the field '{name}' has too many parts", name)


def _json(value: Any, name: str) -> str:
    return nested(_dumped(value, name).decode())


def _dumped(value: Any, name: str) -> bytes:
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:  # it reads 1024 levels and writes 254
        raise BadRequest(f"the field '{name}' is nested too deeply", name) from None


def _content(content: Any, name: str, parts: list[str]) -> None:
    """A message's content: a string, or parts of which those that are not text count with all their bytes (image URLs)."""
    if isinstance(content, str):
        parts.append(content)
    elif isinstance(content, list):
        _count(content, name, parts)
        for part in content:
            if isinstance(part, dict) and isinstance(part.get("text"), str):
                parts.append(part["text"])
            else:
                parts.append(_json(part, name))
    elif content is not None:
        parts.append(_json(content, name))


def _media(content: Mapping[str, Any], read: Outline) -> tuple[int, ...]:
    """Whatever is no text among the parts of messages and items; the same picture has the same hash in every request."""
    messages = content.get("messages") or content.get("input")
    if not isinstance(messages, list):
        return ()
    lists = [parts for each in messages if isinstance(each, dict) and isinstance(parts := each.get("content"), list)]
    if not lists:
        return ()
    used: set[int] = set()
    return tuple(
        xxh3_64_intdigest(read.whole(_dumped(part, "messages"), used=used))
        for parts in lists
        for part in parts
        if isinstance(part, dict) and part.get("type") in MEDIA
    )


def _tokens_or_text(value: Any, name: str) -> Prompt:
    """A prompt as text, as token ids (4 bytes each, so that a block holds as many tokens either way), or a batch of these."""
    if value is None or isinstance(value, str):
        return value or ""
    if not isinstance(value, list):
        raise BadRequest(f"the field '{name}' must be a string or a list", name)
    if value and isinstance(value[0], int):
        return _tokens(value, name)
    _count(value, name, [])
    if all(isinstance(item, str) for item in value):
        return "".join(f"{item}\0" for item in value)
    if all(isinstance(item, list) and item and isinstance(item[0], int) for item in value):
        return b"".join(_tokens(item, name) + b"\0" for item in value)
    return _json(value, name)


def _tokens(ids: list[Any], name: str) -> bytes:
    try:
        return array("I", ids).tobytes()
    except (TypeError, OverflowError):
        raise BadRequest(f"the field '{name}' must hold token ids: integers from 0 to 4294967295", name) from None


def _field(*names: str) -> Callable[[Mapping[str, Any]], Prompt]:
    """The prompt is the first of these fields that is present."""

    def prompt(content: Mapping[str, Any]) -> Prompt:
        for name in names:
            if content.get(name) is not None:
                return _tokens_or_text(content[name], name)
        return ""

    return prompt


def _responses(content: Mapping[str, Any]) -> str:
    """OpenAI responses: instructions, then input (text, or items that look like messages)."""
    parts: list[str] = []
    if content.get("tools"):
        parts.append(_json(content["tools"], "tools"))
    _content(content.get("instructions"), "instructions", parts)
    items = content.get("input")
    if items is not None and not isinstance(items, (str, list)):
        raise BadRequest("the field 'input' must be a string or a list", "input")
    if isinstance(items, list):
        _count(items, "input", parts)
    for item in [{"role": "user", "content": items}] if isinstance(items, str) else items or ():
        if isinstance(item, dict) and "content" in item:
            parts.append(_role(item))
            _content(item["content"], "input", parts)
        else:
            parts.append(_json(item, "input"))
    return "".join(parts)


@dataclass(frozen=True, slots=True)
class Kind:
    """What the body of one path means."""

    prompt: Callable[[Mapping[str, Any]], Prompt]
    dialect: Dialect = "openai"
    model_required: bool = True
    tells_usage: bool = True  # False: streams do only where stream_options ask for it


# The longest suffix that fits wins. `/generate` and what vLLM adds to OpenAI's API may leave the model out.
KINDS: tuple[tuple[str, Kind], ...] = tuple(
    sorted(
        {
            "/chat/completions": Kind(_messages, tells_usage=False),
            "/completions": Kind(_field("prompt"), tells_usage=False),
            "/embeddings": Kind(_field("input")),
            "/responses": Kind(_responses),
            "/images/generations": Kind(_field("prompt")),
            "/messages": Kind(_messages, "anthropic"),
            "/messages/count_tokens": Kind(_messages, "anthropic"),
            "/inference/v1/generate": Kind(_field("token_ids", "prompt"), model_required=False),
            "/generate": Kind(_field("text", "input_ids", "prompt"), model_required=False),
            "/v1/rerank": Kind(_field("query"), model_required=False),
            "/v1/score": Kind(_field("text_1"), model_required=False),
        }.items(),
        key=lambda item: -len(item[0]),
    )
)


def kind_of(headers: Mapping[str, str]) -> Kind | None:
    """What the body means; None where the path passes through. Only POST carries an inference request."""
    if headers.get(":method", "POST") != "POST":
        return None
    path = _path(headers).removesuffix("/render")  # vLLM: /v1/chat/completions/render takes the same body
    for suffix, kind in KINDS:
        if path.endswith(suffix):
            return kind
    return None


def _path(headers: Mapping[str, str]) -> str:
    return headers.get(":path", "/").partition("?")[0].rstrip("/") or "/"


def _first(headers: Mapping[str, str], names: tuple[str, ...]) -> str:
    for name in names:
        if found := headers.get(name):
            return found
    return ""


def _session(headers: Mapping[str, str]) -> str:
    found = _first(headers, SESSION_HEADERS)
    return xxh3_64_hexdigest(found.encode()) if found else ""


def _object(body: bytes) -> tuple[dict[str, Any], Outline]:
    """What is read of the body, and what is not."""
    found = outline(body)
    try:
        return _read(found.text), found
    except BadRequest:
        if not found.passed:
            raise
    return _read(body), Outline(body)  # which tells where in the body the mistake is


def _read(text: bytes) -> dict[str, Any]:
    try:
        content = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        what = f"the body is not JSON: {error.msg} at byte {error.pos}" if text else "the body is empty; JSON is needed"
        raise BadRequest(what) from None
    if not isinstance(content, dict):
        raise BadRequest("the body must be a JSON object")
    return content


def _usage(content: Mapping[str, Any]) -> Usage:
    """Of OpenAI's completions. Options that do not speak of usage mean yes to vLLM and no to others: they are the server's."""
    if content.get("stream") is not True:
        return "told"
    if "stream_options" not in content:
        return "silent"
    options = content["stream_options"]
    if options is None:
        return "declined"
    if not isinstance(options, dict) or options.get("include_usage", True) not in (None, False):
        return "told"
    # With usage in every event a server would tell more than was asked for here, and SGLang tells it as it is.
    return "told" if options.get("continuous_usage_stats") else "declined"


def _model(content: Mapping[str, Any], kind: Kind) -> str:
    model = content.get("model")
    if model is None and kind.model_required:
        raise BadRequest("the field 'model' is required", "model")
    if model is not None and (not isinstance(model, str) or (not model and kind.model_required)):
        raise BadRequest("the field 'model' must be a string that is not empty", "model")
    if model and (len(model) > LONG or _CONTROL.search(model)):  # to such a header Envoy would answer 503 by itself
        raise BadRequest(f"the field 'model' has control characters, or more than {LONG} bytes", "model")
    return model or ""


def _salt(content: Mapping[str, Any], read: Outline) -> str:
    salt = content.get("cache_salt")
    if not isinstance(salt, str):
        return ""
    if MARK not in salt:
        return salt
    written = read.whole(orjson.dumps(salt))  # it stands for a long one
    try:
        found: str = orjson.loads(written)
    except orjson.JSONDecodeError:
        return written.decode(errors="replace")
    return found


def _max_tokens(content: Mapping[str, Any]) -> int | None:
    for name in ("max_completion_tokens", "max_tokens", "max_output_tokens"):
        found = content.get(name)
        if isinstance(found, int) and not isinstance(found, bool):
            return found
    sampling = content.get("sampling_params")  # vLLM /inference/v1/generate and SGLang
    if isinstance(sampling, dict):
        for name in ("max_tokens", "max_new_tokens"):
            found = sampling.get(name)
            if isinstance(found, int):
                return found
    return None

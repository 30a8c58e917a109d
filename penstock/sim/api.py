"""vLLM's OpenAI API as values: a request's body in, a Prompt or an ApiError; answers and stream events as bytes out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from penstock.sim import tokens


class ApiError(Exception):
    """What vLLM answers instead: `{"error": {"message", "type", "param", "code"}}`."""

    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.kind, self.message, self.param = status, kind, message, param

    def body(self) -> bytes:
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.status}
        return orjson.dumps({"error": error})


@dataclass(frozen=True, slots=True)
class Prompt:
    """One completion request."""

    model: str
    text: bytes
    chat: bool
    stream: bool
    include_usage: bool  # an event at the end of the stream
    continuous_usage: bool  # in each event too
    max_tokens: int | None


def prompt_of(body: bytes, *, chat: bool) -> Prompt:
    """Parse the body of /v1/chat/completions or /v1/completions. Raises ApiError (400)."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _bad(f"Invalid JSON: {error}") from None
    if not isinstance(fields, dict) or not isinstance(fields.get("model"), str):
        raise _bad("model: Field required", "model")
    limit = fields.get("max_completion_tokens") or fields.get("max_tokens")
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise _bad(f"max_tokens must be at least 1, got {limit}.", "max_tokens")
    include_usage, continuous_usage = _stream_options(fields)
    return Prompt(
        model=fields["model"],
        text=_messages(fields) if chat else _prompt(fields),
        chat=chat,
        stream=bool(fields.get("stream")),
        include_usage=include_usage,
        continuous_usage=continuous_usage,
        max_tokens=limit,
    )


def _stream_options(fields: Mapping[str, Any]) -> tuple[bool, bool]:
    """(include_usage, continuous_usage_stats), as vLLM 0.32 takes them: options that do not speak of usage mean yes."""
    options = fields.get("stream_options")
    if options and not fields.get("stream"):
        raise _bad("Stream options can only be defined when `stream=True`.", "stream_options")
    if options is None:
        return False, False
    if not isinstance(options, dict):
        raise _bad("stream_options: Input should be a valid dictionary", "stream_options")
    found = options.get("include_usage", True), options.get("continuous_usage_stats", False)
    if not all(isinstance(each, bool) or each is None for each in found):
        raise _bad("stream_options: Input should be a valid boolean", "stream_options")
    usage = bool(found[0])
    return usage, usage and bool(found[1])


def _messages(fields: Mapping[str, Any]) -> bytes:
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _bad("messages: Field required", "messages")
    if not all(isinstance(message, dict) and isinstance(message.get("role"), str) for message in messages):
        raise _bad("messages: each needs a role", "messages")
    return tokens.render(messages)


def _prompt(fields: Mapping[str, Any]) -> bytes:
    prompt = fields.get("prompt")
    if isinstance(prompt, list) and prompt and all(isinstance(token, int) and 0 <= token < 2**32 for token in prompt):
        return b"".join(token.to_bytes(tokens.BYTES, "little") for token in prompt)
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str) or not prompt:
        raise _bad("prompt: a string or a list of token ids is required", "prompt")
    return prompt.encode()


def _bad(message: str, param: str | None = None) -> ApiError:
    return ApiError(400, "BadRequestError", message, param)


def unknown_model(model: str, known: tuple[str, ...]) -> ApiError:
    message = f"The model `{model}` does not exist. Valid aliases: {', '.join(known)}."
    return ApiError(404, "NotFoundError", message, "model")


def too_long(prompt_tokens: int, limit: int) -> ApiError:
    message = f"This model's maximum context length is {limit} tokens. However, your request has {prompt_tokens} input tokens."
    return ApiError(400, "BadRequestError", message, "input_tokens")


def no_such_rank(rank: int, size: int) -> ApiError:
    return _bad(f"data_parallel_rank {rank} is out of range [0, {size}).")


def busy() -> ApiError:
    return ApiError(503, "ServiceUnavailableError", "The engine is currently busy and cannot accept more requests.")


class Answer:
    """The words of one answer, whole or as server-sent events."""

    def __init__(self, id_: str, prompt: Prompt, prompt_tokens: int, words: list[str], created: int) -> None:
        self.prompt, self.prompt_tokens, self.words = prompt, prompt_tokens, words
        self.sent = 0
        kind = "chat.completion" if prompt.chat else "text_completion"
        chunk = "chat.completion.chunk" if prompt.chat else kind
        self._base = {"id": id_, "object": kind, "created": created, "model": prompt.model}
        start = orjson.dumps({**self._base, "object": chunk})[:-1] + b',"choices":['
        self._empty = b"data: " + start
        open_ = b'{"index":0,"delta":{"content":"' if prompt.chat else b'{"index":0,"text":"'
        self._open = self._empty + open_
        close = b'"}' if prompt.chat else b'"'
        self._next = close + b',"logprobs":null,"finish_reason":null}]'
        self._last = close + b',"logprobs":null,"finish_reason":"%s"}]'

    def events(self, count: int, finished: str, cached_tokens: int) -> bytes:
        """The events of the next `count` tokens; with what closes the stream if it is `finished`."""
        parts: list[bytes] = []
        if self.sent == 0 and self.prompt.chat:
            role = b'{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]'
            parts += (self._empty, role, self._end(0))
        for index in range(self.sent, self.sent + count):
            last = finished and index == self.sent + count - 1
            choice = self._last % finished.encode() if last else self._next
            parts += (self._open, self.words[index].encode(), choice, self._end(index + 1))
        self.sent += count
        if finished:
            if self.prompt.include_usage:
                parts.append(self._empty + b'],"usage":' + orjson.dumps(self.usage(cached_tokens)) + b"}\n\n")
            parts.append(b"data: [DONE]\n\n")
        return b"".join(parts)

    def _end(self, sent: int) -> bytes:
        """Of the event after which so many tokens were sent."""
        if not self.prompt.continuous_usage:
            return b"}\n\n"
        total = self.prompt_tokens + sent
        usage = {"prompt_tokens": self.prompt_tokens, "total_tokens": total, "completion_tokens": sent}
        return b',"usage":' + orjson.dumps(usage) + b"}\n\n"

    def whole(self, finished: str, cached_tokens: int) -> bytes:
        """The body of an answer that is not streamed."""
        text = "".join(self.words)
        content: dict[str, object] = (
            {"message": {"role": "assistant", "content": text}} if self.prompt.chat else {"text": text}
        )
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": finished}
        self.sent = len(self.words)
        return orjson.dumps({**self._base, "choices": [choice], "usage": self.usage(cached_tokens)})

    def usage(self, cached_tokens: int) -> dict[str, object]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + self.sent,
            "completion_tokens": self.sent,
            "prompt_tokens_details": {"cached_tokens": cached_tokens},
        }

"""Reading requests: every dialect's prompt, the client's mistakes, and the model's name in the body."""

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st
from xxhash import xxh3_64_hexdigest

from picker.errors import BadRequest
from picker.request import DEFAULT_FLOW, MAX_PARTS, InferenceRequest, parse, without_body

CHAT = "/v1/chat/completions"


def post(path: str, body: Any, **headers: str) -> InferenceRequest:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return parse({":method": "POST", ":path": path, **headers}, raw)


def chat(*messages: tuple[str, Any], **more: Any) -> InferenceRequest:
    return post(CHAT, {"model": "m", "messages": [{"role": r, "content": c} for r, c in messages], **more})


def test_what_is_read_of_a_chat() -> None:
    found = post(
        CHAT + "?x=1",
        {
            "model": "m",
            "messages": [{"role": "user", "content": "hi"}],
            "stream": True,
            "max_tokens": 7,
            "cache_salt": "s",
        },
        **{"x-gateway-inference-objective": "gold", "x-session-id": "abc", "user-agent": "curl"},
        **{"x-gateway-model-name-rewrite": "other"},
    )
    assert (found.path, found.model, found.streaming, found.max_tokens, found.cache_salt) == (CHAT, "m", True, 7, "s")
    assert (found.objective, found.session_id, found.fairness_id, found.user_agent) == (
        "gold",
        xxh3_64_hexdigest(b"abc"),  # nobody needs to know more of a session than whether it is the same
        DEFAULT_FLOW,
        "curl",
    )
    assert found.rewrite == "other"
    assert b"user" in found.prompt
    assert found.prompt.endswith(b"hi")


@given(st.lists(st.tuples(st.sampled_from(["user", "assistant"]), st.text()), min_size=1), st.text())
def test_a_conversation_that_grows_keeps_its_prefix(turns: list[tuple[str, str]], more: str) -> None:
    assert chat(*turns, ("user", more)).prompt.startswith(chat(*turns).prompt)


def test_text_parts_equal_a_string_and_images_count_with_all_their_bytes() -> None:
    assert chat(("user", [{"type": "text", "text": "hi"}])).prompt == chat(("user", "hi")).prompt
    one, two = (chat(("user", [{"type": "image_url", "image_url": {"url": f"data:{x}"}}])).prompt for x in "ab")
    assert one != two


@pytest.mark.parametrize(
    ("path", "body", "prompt"),
    [
        ("/v1/completions", {"model": "m", "prompt": "abc"}, b"abc"),
        ("/v1/completions", {"model": "m", "prompt": ["a", "b"]}, rb"a\u0000b\u0000"),
        ("/v1/completions", {"model": "m", "prompt": [1, 2]}, b"\1\0\0\0\2\0\0\0"),
        ("/v1/completions", {"model": "m", "prompt": [[1], [2]]}, b"\1\0\0\0\0\2\0\0\0\0"),
        ("/v1/completions", {"model": "m"}, b""),
        ("/v1/completions", {"model": "m", "prompt": 'a\n"\u00e9'}, b'a\\n\\"\xc3\xa9'),
        ("/v1/completions", {"model": "m", "prompt": ["a", [1]]}, b'[\\"a\\",[1]]'),
        ("/v1/embeddings", {"model": "m", "input": "abc"}, b"abc"),
        ("/v1/responses", {"model": "m", "input": "abc"}, rb"\u0000user\u0000abc"),
        ("/v1/responses", {"model": "m", "instructions": "i", "input": [{"role": "user", "content": "abc"}]}, rb"i\u0000user\u0000abc"),
        ("/v1/messages", {"model": "m", "system": "s", "messages": [{"role": "user", "content": "abc"}]}, rb"\u0000system\u0000s\u0000user\u0000abc"),
        ("/generate", {"text": "abc"}, b"abc"),
        ("/generate", {"input_ids": [7]}, b"\7\0\0\0"),
        ("/inference/v1/generate", {"token_ids": [7], "sampling_params": {"max_tokens": 3}}, b"\7\0\0\0"),
        ("/v1/completions/render", {"model": "m", "prompt": "abc"}, b"abc"),
    ],
)  # fmt: skip
def test_the_prompt_of_each_dialect(path: str, body: dict[str, Any], prompt: bytes) -> None:
    assert post(path, body).prompt == prompt


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
def test_anthropic_is_known_by_its_path(path: str) -> None:
    assert post(path, {"model": "m", "messages": []}).dialect == "anthropic"
    assert without_body({":path": path}).dialect == "anthropic"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, b"", ""),
        (CHAT, b"{", ""),
        (CHAT, b"[]", ""),
        (CHAT, b'{"model": "\xff"}', ""),
        (CHAT, {"messages": []}, "model"),
        (CHAT, {"model": 3, "messages": []}, "model"),
        (CHAT, {"model": "", "messages": []}, "model"),
        (CHAT, {"model": "m"}, "messages"),
        (CHAT, {"model": "m", "messages": "hi"}, "messages"),
        (CHAT, {"model": "m", "messages": ["hi"]}, "messages[0]"),
        (CHAT, b'{"model": "m", "messages": [{"content": ' + b"[" * 600 + b"]" * 600 + b"}]}", "messages"),
        ("/v1/completions", {"model": "m", "prompt": 3}, "prompt"),
        ("/v1/completions", {"model": "m", "prompt": [1, "a"]}, "prompt"),
        ("/v1/completions", {"model": "m", "prompt": [-1]}, "prompt"),
        ("/v1/completions", b'{"model": "m", "prompt": ' + b"[" * 900 + b"]" * 900 + b"}", "prompt"),
        ("/v1/responses", {"model": "m", "input": 3}, "input"),
        ("/generate", {"model": 3}, "model"),
    ],
)
def test_mistakes_are_400_and_name_the_field(path: str, body: Any, param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        post(path, body)
    assert (caught.value.status, caught.value.reason, caught.value.param) == (400, "bad_request", param)


@pytest.mark.parametrize(
    ("path", "param", "body"),
    [
        ("/v1/completions", "prompt", {"prompt": [{}] * (MAX_PARTS + 1)}),
        (CHAT, "messages", {"messages": [{}] * (MAX_PARTS + 1)}),
        (CHAT, "messages", {"messages": [{"content": [{}] * (MAX_PARTS // 2)}] * 3}),
        ("/v1/responses", "input", {"input": [{}] * (MAX_PARTS + 1)}),
    ],
)
def test_more_parts_than_anybody_writes_are_400(path: str, param: str, body: dict[str, Any]) -> None:
    """One body must not hold up the event loop for seconds."""
    with pytest.raises(BadRequest) as caught:
        post(path, {"model": "m", **body})
    assert (caught.value.status, caught.value.param) == (400, param)


@pytest.mark.parametrize("model", ["a\nb", "a\r\nx-evil: 1", "\0", "a\x7f", "a" * 2049, "a" * 9999])
def test_a_model_that_cannot_be_a_header_is_400(model: str) -> None:
    with pytest.raises(BadRequest) as caught:
        post("/v1/completions", {"model": model})
    assert (caught.value.status, caught.value.param) == (400, "model")


def test_a_body_that_is_too_large_is_413() -> None:
    with pytest.raises(BadRequest) as caught:
        parse({":path": "/x"}, b"12345", max_body=4)
    assert (caught.value.status, caught.value.reason) == (413, "body_too_large")


@pytest.mark.parametrize(
    "headers", [{":path": "/v1/audio/transcriptions"}, {":method": "GET", ":path": CHAT}, {":path": "/"}, {}]
)
def test_what_is_not_ours_to_read_passes_through(headers: dict[str, str]) -> None:
    found = parse(headers, b"\xff not JSON")
    assert (found.model, found.prompt, found.body_bytes) == ("", b"", 10)


@given(st.binary(max_size=200), st.sampled_from([CHAT, "/v1/completions", "/generate", "/v1/messages", "/x"]))
def test_no_body_crashes_it(body: bytes, path: str) -> None:
    try:
        post(path, body)
    except BadRequest as error:
        assert error.message


@pytest.mark.parametrize(
    ("more", "usage"),
    [
        ({}, "told"),  # it is not streamed
        ({"stream": False, "stream_options": None}, "told"),
        ({"stream": 1}, "told"),
        ({"stream": True}, "silent"),
        ({"stream": True, "stream_options": None}, "declined"),
        ({"stream": True, "stream_options": {"include_usage": False, "x": 1}}, "declined"),
        ({"stream": True, "stream_options": {"include_usage": None}}, "declined"),
        ({"stream": True, "stream_options": {"include_usage": True}}, "told"),
        ({"stream": True, "stream_options": {"include_usage": "yes"}}, "told"),
        ({"stream": True, "stream_options": {}}, "told"),  # vLLM takes that for a yes
        ({"stream": True, "stream_options": "include_usage"}, "told"),  # the server's to refuse
        ({"stream": True, "stream_options": {"include_usage": False, "continuous_usage_stats": True}}, "told"),
    ],
)
def test_who_is_not_told_of_usage(more: dict[str, Any], usage: str) -> None:
    assert post(CHAT, {"model": "m", "messages": []} | more).usage == usage
    assert post("/team/v1/completions?x", {"model": "m", "prompt": "p"} | more).usage == usage
    for path in ("/v1/messages", "/v1/responses", "/v1/embeddings", CHAT + "/render", "/x"):
        assert post(path, {"model": "m", "messages": []} | more).usage == "told"


def test_media_are_told_apart_and_found_again() -> None:
    def media(*parts: object) -> tuple[int, ...]:
        return chat(("user", list(parts)), ("assistant", None), ("user", 1)).media

    cat, dog = ({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{name}"}} for name in ("cat", "dog"))
    assert len({*media(cat), *media(dog)}) == 2
    assert media(cat, dog) == media(cat) + media(dog)
    assert media({"type": "text", "text": '{"type":"image_url"}'}) == media("text") == ()


def test_the_headers_go_along() -> None:
    headers = {":path": CHAT, "x-tenant": "a"}
    assert parse(headers, b'{"model":"m","messages":[]}').headers == without_body(headers).headers == headers

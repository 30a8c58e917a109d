"""Who a token stands for: what is believed, what is refused, what is remembered."""

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from tests.xds_server.tokens import token, vouched
from xds_server.identity import RECHECK_S, REFUSED_S, Account, Verdicts, bearer, claims, expiry, plausible, reviewed

ME = Account("prod", "web-penstock", "web-1")


@pytest.mark.parametrize(
    ("metadata", "found"),
    [
        ([("authorization", "Bearer abc")], "abc"),
        ([("x", "y"), ("authorization", "bearer abc")], "abc"),
        ([("authorization", "abc")], "abc"),
        ([("authorization-bin", b"abc")], ""),
        ([], ""),
        (None, ""),
    ],
)
def test_the_token_of_a_stream(metadata: Any, found: str) -> None:
    assert bearer(metadata) == found


@given(st.text())
def test_no_text_is_a_crash(text: str) -> None:
    assert not plausible(claims(text), 0.0)
    assert not plausible(claims(f"a.{text}.b"), 0.0)


def test_garbage_is_not_worth_a_question() -> None:
    assert plausible(claims(token()), 0.0)
    assert plausible(claims(token(aud="penstock.dev")), 0.0)
    assert expiry(claims(token(exp=7))) == 7
    assert not plausible(claims(token(exp=7)), 7.0)
    assert not plausible(claims(token(exp="x")), 0.0)
    assert not plausible(claims(token(aud=["https://kubernetes.default.svc"])), 0.0)
    assert not plausible(claims(token("alice")), 0.0)


def test_an_account_is_what_the_api_server_says() -> None:
    assert reviewed(vouched()) == ME
    assert reviewed(vouched("system:serviceaccount:prod:web-penstock")) == ME


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"status": None},
        {"status": {"authenticated": False, "audiences": ["penstock.dev"], "user": {"username": ME}}},
        {"status": vouched()["status"] | {"authenticated": "true"}},
        {"status": vouched()["status"] | {"audiences": []}},  # an API server that ignored the audience
        {"status": vouched()["status"] | {"audiences": ["other"]}},
        vouched("alice"),
        vouched("system:serviceaccount:prod"),
        vouched("system:serviceaccount:prod:"),
        vouched("system:serviceaccount:prod:a:b"),
        vouched("system:node:system:serviceaccount:prod:a"),
    ],
)
def test_everybody_else_is_nobody(answer: dict[str, Any]) -> None:
    assert reviewed(answer) is None


def test_a_verdict_is_checked_again_and_ends_with_its_token() -> None:
    verdicts = Verdicts()
    verdicts.put(b"k", ME, now=100.0, expires=1000.0)
    found = verdicts.get(b"k", 999.0)
    assert found and found.account == ME and found.recheck == 100.0 + RECHECK_S
    assert verdicts.get(b"k", 1000.0) is None
    verdicts.put(b"bad", None, now=100.0, expires=1000.0)
    assert verdicts.get(b"bad", 100.0 + REFUSED_S) is None


def test_a_flood_of_bad_tokens_pushes_out_no_good_one() -> None:
    verdicts = Verdicts(size=10)
    for index in range(5):
        verdicts.put(b"good%d" % index, ME, 0.0, 1000.0)
    for index in range(100):
        verdicts.put(b"bad%d" % index, None, 0.0, 1000.0)
    assert len(verdicts) == 10
    assert all(verdicts.get(b"good%d" % index, 1.0) for index in range(5))
    verdicts.put(b"late", ME, REFUSED_S + 1, 1000.0)  # and what has expired goes first
    assert len(verdicts) == 6

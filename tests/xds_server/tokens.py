"""Tokens as kubelet mounts them, unsigned; and an API server that vouches for those it knows."""

import base64
import json
from collections.abc import Mapping
from typing import Any


def token(subject: str = "system:serviceaccount:prod:web-penstock", **claims: Any) -> str:
    found = {"aud": ["penstock.dev"], "exp": 4102444800, "sub": subject} | claims  # 2100
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in ({}, found)]
    return ".".join([*parts, "signature"])


def vouched(subject: str = "system:serviceaccount:prod:web-penstock", pod: str = "web-1") -> dict[str, Any]:
    user = {"username": subject, "extra": {"authentication.kubernetes.io/pod-name": [pod]}}
    return {"status": {"authenticated": True, "audiences": ["penstock.dev"], "user": user}}


class Api:
    """Answers TokenReviews and counts them; `answers` is by token, None raises."""

    def __init__(self, answers: Mapping[str, dict[str, Any] | None]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    async def __call__(self, review: Mapping[str, Any]) -> Mapping[str, Any]:
        assert review["spec"]["audiences"] == ["penstock.dev"]
        said = review["spec"]["token"]
        self.asked.append(said)
        answer = self.answers.get(said, {"status": {"authenticated": False}})
        if answer is None:
            raise ConnectionError("away")
        return answer

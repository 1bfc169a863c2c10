from __future__ import annotations

import pytest

from posttrain.serve.refusal import Refusal, stopping, too_many, unsupported


def test_the_body_has_the_shape_of_openai() -> None:
    refusal = Refusal(400, "n is 0", param="n", code="bad")
    assert refusal.body == {
        "error": {
            "message": "n is 0",
            "type": "invalid_request_error",
            "param": "n",
            "code": "bad",
        }
    }


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (404, "not_found_error"),
        (413, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "server_error"),
        (503, "server_error"),
    ],
)
def test_the_type_follows_from_the_status(status: int, kind: str) -> None:
    assert Refusal(status, "x").body["error"]["type"] == kind


def test_common_refusals() -> None:
    assert unsupported("tools", "x").status == 400 and unsupported("tools", "x").param == "tools"
    assert too_many("x", seconds=7).headers == {"Retry-After": "7"}
    assert stopping().status == 503 and stopping().code == "stopping"

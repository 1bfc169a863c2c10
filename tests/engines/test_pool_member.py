"""Whether a server that was lost can be reached again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from posttrain.engines.pool_member import Member
from posttrain.errors import ServerLost


@pytest.mark.parametrize("answers", [True, False])
def test_a_member_answers_where_its_server_does(answers: bool) -> None:
    def get(path: str, **options: Any) -> None:
        assert path == "/health" and options["max_retries"] == 0
        if not answers:
            raise ServerLost("gone", "http://s")

    engine: Any = SimpleNamespace(server=SimpleNamespace(client=SimpleNamespace(get=get)))
    member = Member(lambda: engine, engine)
    assert member.answers is answers and member.state == "alive"

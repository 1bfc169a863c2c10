"""The account of one request."""

from __future__ import annotations

from posttrain.engines.schedule import Row
from posttrain.engines.tickets import Ticket
from posttrain.types import Request, Sample, Sampling


def ended(ticket: Ticket, index: int, num_computed: int | None, num_tokens: int) -> None:
    request = ticket.request
    row = Row(0, index, request.prompt_ids, request.sampling, 0, 9, num_computed=num_computed)
    zeros = [0.0] * num_tokens
    ticket.add(row, Sample([1] * num_tokens, zeros, zeros, "stop"))


def test_tokens_of_a_prompt_are_reused_or_computed() -> None:
    ticket = Ticket(Request((1, 2, 3, 4), Sampling(), n=3), None)
    assert ticket.num_reused == ticket.num_tokens == 0
    ended(ticket, 2, None, 0)  # it never began
    assert ticket.num_reused == 0
    ended(ticket, 0, 1, 5)
    ended(ticket, 1, 0, 2)
    assert (ticket.num_reused, ticket.num_tokens) == (3, 7)
    assert [len(ticket.samples[k].ids) for k in range(3)] == [5, 2, 0]

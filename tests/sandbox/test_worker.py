"""One guest."""

from __future__ import annotations

import sys

import pytest

from posttrain.errors import SandboxError
from posttrain.sandbox.worker import Guest, ProgramRun


def test_what_a_guest_writes_when_it_does_not_start_is_told() -> None:
    guest = Guest(lambda control: [sys.executable, "-c", "raise SystemExit('no namespaces')"])
    with pytest.raises(SandboxError, match="no namespaces"):
        guest.start()
    guest.kill()


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(SandboxError):
        Guest(lambda control: ["/nowhere/bwrap"]).start()


def test_nothing_was_sent() -> None:
    assert Guest(lambda control: []).receive(1).status == "lost"


def test_success_is_an_end_with_code_0() -> None:
    assert ProgramRun("ended").succeeded
    assert not ProgramRun("ended", code=1).succeeded and not ProgramRun("timeout").succeeded

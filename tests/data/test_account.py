from __future__ import annotations

from posttrain.data.account import Account
from posttrain.data.encoded import Encoded
from posttrain.data.formats import RowFormat


def test_an_account_collects_losses_by_key() -> None:
    account = Account()
    account.add(Encoded([], RowFormat("text", ""), num_rows=3))
    assert account == Account()
    account.add(Encoded([], RowFormat("text", ""), num_rows=3, masked=["1"]), "eval_data")
    assert list(account.losses) == ["eval_data lost"]
    assert account.metrics["eval_data/rows_masked"] == 1


def test_an_account_may_add_to_the_records_of_another() -> None:
    losses: dict[str, str] = {}
    metrics = {"eval_loss": 1.0}
    encoded = Encoded([], RowFormat("text", ""), num_rows=2, dropped=1)
    Account(losses, metrics).add(encoded)
    assert "data lost" in losses
    assert metrics["eval_loss"] == 1.0 and metrics["data/rows_dropped"] == 1

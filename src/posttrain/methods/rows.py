"""The functions of `data.training_data` for a run: its tokenizer, its paths, its account."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from posttrain.config import DataConfig
from posttrain.data import training_data
from posttrain.data.account import Account
from posttrain.data.encoded import Encoded
from posttrain.data.training_data import data_facts
from posttrain.methods.run import Run

__all__ = ["account", "data_facts", "encode_data", "encode_stream", "read_rows"]

E = TypeVar("E", bound=Encoded)


def read_rows(run: Run, data: DataConfig, *, key: str = "data") -> list[dict[str, Any]]:
    """The rows of a recipe's data."""
    return training_data.read_rows(data, resolve=run.resolve, key=key)


def encode_data(
    run: Run,
    data: DataConfig,
    context: int | None,
    encode: Callable[..., E],
    rows: list[dict[str, Any]] | None = None,
    *,
    key: str = "data",
) -> E:
    """`training_data.encode_data` of a run."""
    return training_data.encode_data(
        data,
        run.tokenizer,
        context,
        encode,
        rows,
        account=_account_of(run),
        resolve=run.resolve,
        key=key,
    )


def encode_stream(run: Run, data: DataConfig, context: int | None, *, key: str = "data") -> Encoded:
    """`training_data.encode_stream` of a run."""
    return training_data.encode_stream(
        data,
        run.tokenizer,
        context,
        account=_account_of(run),
        resolve=run.resolve,
        key=key,
    )


def account(run: Run, encoded: Encoded, key: str) -> None:
    """Record what was lost: a check shows it, and so does the run when it starts."""
    _account_of(run).add(encoded, key)


def _account_of(run: Run) -> Account:
    """An account that adds to the run's own losses and metrics."""
    return Account(run.lost, run.first_metrics)

"""What can go wrong, as one tree. Every message names the value, the rule it broke and the way out.

PosttrainError
├── ConfigError          a recipe or a flag: unknown key, wrong type, impossible combination
├── DataError            a file or a row: missing, broken, nothing to train on
├── TemplateError        a chat template that is missing or cannot yield a trained-token mask
├── ModelError           a model folder that cannot be loaded or used as asked
├── RewardError          a reward that fails its self-test or cannot be run
├── SandboxError         programs that cannot be run safely here
├── EpisodeError         an environment or its tools that fail, or take too long
├── CheckpointError      a checkpoint that is broken, missing or belongs to another run
├── EndpointError        a server that does not give completions
│   ├── EngineLost       a process that samples and has died
│   ├── RequestRefused   it refuses one request, such as a prompt that is too long
│   ├── ServerLost       a server that cannot be reached
│   └── WeightSyncError  a server that has other weights than the trainer
├── RankError            another process of the run that has failed, or has ended
├── MissingDependency    an optional library; the message names the extra to install
└── TrainingDiverged     a loss or gradient that is NaN or infinite
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_MAX_MESSAGE, _HEAD = 2000, 1200
_MAX_KNOWN, _NUM_SIMILAR = 24, 8  # names in a message: all, or so many of them
_MAX_FILES, _NUM_FILES, _MAX_FILE_NAME = 2000, 3, 60  # compared, shown, and characters of one


class PosttrainError(Exception):
    """Base of every error that a user can mend; the command line prints it without a traceback.

    The middle of a message of more than 2,000 characters is left out: a value begins it, rule and
    way out end it.
    """

    def __str__(self) -> str:
        text = super().__str__()
        if len(text) <= _MAX_MESSAGE:
            return text
        left_out = len(text) - _MAX_MESSAGE
        return f"{text[:_HEAD]} … ({left_out:,} characters left out) … {text[_HEAD + left_out :]}"


def shown(value: object, limit: int = 80) -> str:
    """A value in a message: its `repr`, cut to `limit` characters.

    >>> shown("a" * 100, 10)
    "'aaaaaaaa…"
    """
    if isinstance(value, int) and value.bit_length() > 1024:
        return f"a whole number of {value.bit_length()} bits"
    try:
        text = repr(value)
    except (
        ValueError,
        RecursionError,
    ):  # a list of integers of over 4,300 digits, a list inside itself
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


class ConfigError(PosttrainError):
    """A recipe or a flag is wrong."""


class DataError(PosttrainError):
    """A data file or row is wrong."""


class TemplateError(PosttrainError):
    """A chat template is missing or cannot be masked."""


class ModelError(PosttrainError):
    """A model cannot be loaded or used as asked."""


class RewardError(PosttrainError):
    """A reward cannot be run, or gives wrong values on known answers."""


class SandboxError(PosttrainError):
    """No sandbox works on this machine, or one that worked has been lost."""


class EpisodeError(PosttrainError):
    """An environment fails, takes too long, or gives what cannot be used."""


class CheckpointError(PosttrainError):
    """A checkpoint is broken, missing, or of another run."""


class EndpointError(PosttrainError):
    """A server that was asked for completions does not give them."""


class EngineLost(EndpointError):
    """The process of an engine has died.

    Args:
        pid: the number of the process. code: its exit status, or minus the signal that ended it.
    """

    def __init__(self, message: str, *, pid: int | None = None, code: int | None = None) -> None:
        super().__init__(message)
        self.pid, self.code = pid, code


class ServerLost(EndpointError):
    """A server cannot be reached, or has died.

    Args:
        url: its address.
    """

    def __init__(self, message: str, url: str) -> None:
        super().__init__(message)
        self.url = url


class WeightSyncError(EndpointError):
    """A server's weights are not the trainer's after an update.

    Args:
        gap, bound: difference of log-probs in nats, and the largest one that is allowed; NaN where
        none was measured.
    """

    def __init__(
        self, message: str, *, gap: float = float("nan"), bound: float = float("nan")
    ) -> None:
        super().__init__(message)
        self.gap, self.bound = gap, bound


class RequestRefused(EndpointError):
    """A server refuses one request (status 400 or 422), such as a prompt beyond its context.

    Other requests may succeed.
    """


class RankError(PosttrainError):
    """Another process of the run has failed, or has ended.

    Attributes:
        rank: of that process, None where it is not known.
    """

    def __init__(self, message: str, *, rank: int | None = None) -> None:
        super().__init__(message)
        self.rank = rank


class MissingDependency(PosttrainError):
    """An optional library is not installed.

    Args:
        library: what could not be imported. extra: the extra of this package that brings it.
    """

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(
            f"{library} is not installed. Install it with: pip install 'posttrain[{extra}]'"
        )


class TrainingDiverged(PosttrainError):
    """A loss or gradient became NaN or infinite."""


def nearest_files(name: str, there: Iterable[str]) -> str:
    """The tail of an error about a file that is missing: the names of its folder that are near, in
    one short line.

    >>> nearest_files("rows.json", ["rows.jsonl", "notes.txt"])
    "did you mean 'rows.jsonl'?"
    >>> nearest_files("rows.json", [f"{number:03}.csv" for number in range(200)])
    'its folder holds 200 names, none of them near'
    """
    names = sorted(there)
    # The bound keeps a folder of a million files from making the error slow.
    close = difflib.get_close_matches(name, names[:_MAX_FILES], n=_NUM_FILES, cutoff=0.6)
    quoted = [repr(match) for match in close if len(match) <= _MAX_FILE_NAME]
    if quoted:
        return f"did you mean {' or '.join(quoted)}?"
    if not names:
        return "its folder is empty or missing"
    return f"its folder holds {len(names)} names, none of them near"


def nearest(name: str, known: Iterable[str]) -> str:
    """The tail of an error about an unknown name: a suggestion where one is near, and what is
    known; of many names the most similar.

    >>> nearest("lerning_rate", ["learning_rate", "seed"])
    "did you mean 'learning_rate'? Known: learning_rate, seed"
    """
    options = sorted(known)
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.6)
    hint = f"did you mean '{close[0]}'? " if close else ""
    if len(options) > _MAX_KNOWN:
        similar = sorted(difflib.get_close_matches(name, options, n=_NUM_SIMILAR, cutoff=0.0))
        return (
            f"{hint}Known: {', '.join(similar)}, and {len(options) - _NUM_SIMILAR} more "
            "(`posttrain ls` and `posttrain explain` show all)"
        )
    return f"{hint}Known: {', '.join(options) if options else '(none)'}"

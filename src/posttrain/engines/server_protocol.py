"""What a server of token ids is asked, whichever protocol it speaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from posttrain.engines.http_client import JsonClient
from posttrain.errors import EndpointError, WeightSyncError
from posttrain.types import FinishReason, Request, Sample, Sampling, TopTokens, VersionSpan

LogprobsMode = Literal["raw_logprobs", "processed_logprobs"]
"""Whether a server's log-probs are of the model itself, or of the distribution that was sampled
from (temperature and truncation applied).
"""


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a server says of itself; None for what it does not say.

    Attributes:
        model: name in requests. dtype: of the weights, such as "float32".
        max_model_len: most tokens of a prompt and its completion together.
        logprobs_mode: of what its log-probs are.
        is_tied: whether the vocabulary projection is the embedding matrix.
    """

    model: str
    dtype: str | None = None
    max_model_len: int | None = None
    logprobs_mode: LogprobsMode | None = None
    is_tied: bool | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it goes to a server.

    Attributes:
        id: names it in an abort. stop_ids: ids that end every sample.
        salt: what a prefix cache may share: requests of the same weights.
        model: name of the model or adapter. has_seed: whether the seed is sent.
    """

    id: str
    request: Request
    stop_ids: frozenset[int]
    salt: str
    model: str
    has_seed: bool = True

    @property
    def all_stop_ids(self) -> list[int]:
        """Ids that end a sample of this request."""
        return sorted(self.stop_ids | set(self.request.sampling.stop_ids))


@dataclass(frozen=True, slots=True)
class Choice:
    """One completion of an answer.

    Attributes:
        logprobs: per id, of whatever distribution the server reports.
        finish_reason: as the server says it. spans: (label of the weights, start, end).
    """

    ids: list[int]
    logprobs: list[float]
    finish_reason: str
    stop_string: str | None = None
    spans: Sequence[tuple[str, int, int]] = ()
    top_logprobs: list[TopTokens] = field(default_factory=list)


class ServerProtocol(Protocol):
    """One server, by its protocol.

    has_spans: whether it says which weights wrote which token, and goes on with open requests
    after an update.
    """

    client: JsonClient
    has_spans: bool

    def facts(self) -> ServerFacts:
        """What the server says of itself.

        Raises:
            EndpointError: it lacks a route that is needed; the message says how to start it.
        """
        ...

    def takes(self, token_id: int, model: str) -> bool:
        """Whether a token id is of the server's vocabulary."""
        ...

    def generate(self, asked: Asked) -> list[Choice]:
        """The completions of a request, in order."""
        ...

    def score(self, ids: Sequence[int], start: int, model: str, salt: str) -> list[float]:
        """Log-probs of ids[start:], start at least 1, under the model at temperature 1."""
        ...

    def abort(self, request_id: str) -> None:
        """End a request; its answer then comes with what was written."""
        ...

    def reload(self, folder: Path, version: int) -> None:
        """Take over the weights of a folder. Open requests wait meanwhile, and go on with them."""
        ...

    def load_adapter(self, name: str, folder: Path) -> None:
        """Serve an adapter by a name of its own."""
        ...

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter."""
        ...

    def checksums(self) -> dict[str, str]:
        """A checksum of each of the server's tensors; {} where it has none to give."""
        ...


def shape_error(client: JsonClient, answer: object, error: Exception) -> EndpointError:
    """The error of an answer that is not of the protocol."""
    return EndpointError(
        f"{client.url} answers with another form than its protocol has ({type(error).__name__}: "
        f"{error}): {answer!r:.300}. Look at engine.protocol, and at the server's version"
    )


def sample_of(
    choice: Choice,
    sampling: Sampling,
    mode: LogprobsMode | None,
    version: int,
    *,
    timed_out: bool = False,
    has_spans: bool = True,
) -> Sample:
    """A completion as a sample.

    Args:
        mode: of the log-probs; None: of softmax(logits / temperature), without truncation.
        version: of the weights when the request was sent. timed_out: the request was aborted
        because its time was over. has_spans: whether the choice's spans say which weights wrote
        it; else `version` did.
    Raises:
        EndpointError: the server gave the request up, or counts other log-probs than ids.
        WeightSyncError: it was written by weights that are not the trainer's.
    """
    if len(choice.logprobs) != len(choice.ids):
        raise EndpointError(
            f"a completion of {len(choice.ids)} tokens came with {len(choice.logprobs)} log-probs; "
            "the server must report one per sampled token"
        )
    whole = (VersionSpan(version, 0, len(choice.ids)),) if choice.ids else ()
    spans = _spans(choice, version) if has_spans else whole
    truncated = sampling.top_p < 1 or sampling.top_k > 0 or sampling.min_p > 0
    plain = sampling.temperature == 0 or (sampling.temperature == 1 and not truncated)
    is_raw = plain or mode == "raw_logprobs" or (mode is None and sampling.temperature == 1)
    is_sampled_from = plain or mode == "processed_logprobs" or (mode is None and not truncated)
    return Sample(
        choice.ids,
        list(choice.logprobs) if is_sampled_from else [],
        list(choice.logprobs) if is_raw else [],
        _reason(choice, timed_out=timed_out),
        choice.stop_string,
        weights_version=min((s.version for s in spans), default=version),
        top_logprobs=choice.top_logprobs,
        version_spans=spans,
    )


def _reason(choice: Choice, *, timed_out: bool) -> FinishReason:
    if choice.finish_reason == "stop":
        return "stop"
    if timed_out:
        return "timeout"
    if choice.finish_reason in ("abort", "error"):
        raise EndpointError(
            f"the server gave a completion up after {len(choice.ids)} tokens (finish_reason "
            f"{choice.finish_reason!r}); look at its log, and let nothing else abort its requests"
        )
    return "length"


def _spans(choice: Choice, version: int) -> tuple[VersionSpan, ...]:
    """Spans with numbers for labels."""
    spans = []
    for label, start, end in choice.spans:
        if not label.isdecimal():
            raise WeightSyncError(
                f"tokens were written by weights {label!r}, which the trainer did not send "
                f"(it sent {version}); let one run alone update this server"
            )
        spans.append(VersionSpan(int(label), start, end))
    return tuple(spans)

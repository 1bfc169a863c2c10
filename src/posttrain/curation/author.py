"""Who writes rows: a loaded model, a server, or a function; and what it has cost."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.config import EndpointConfig
from posttrain.data.templates import decode_completion, encode_prompt
from posttrain.engines.torch import TorchEngine
from posttrain.errors import ConfigError, PosttrainError, shown
from posttrain.methods.endpoint import EndpointModel, spec_of
from posttrain.methods.objects import ModelLike
from posttrain.types import Request, Sampling, Text

Writes = Callable[[list[str]], list[str]]
"""A function of the user: prompts -> completions."""

AuthorLike = ModelLike | EndpointConfig | Writes

_PART = 64  # requests handed in together, and then written to the journal


@dataclass(slots=True)
class Cost:
    """What was asked for. requests: those answered. prompt_tokens, generated_tokens: as the engine
    or the server counts; 0 of a function. reused: answers that a journal had.
    """

    requests: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    reused: int = 0

    def __str__(self) -> str:
        return (
            f"{self.requests:,} requests, {self.prompt_tokens:,} tokens in, "
            f"{self.generated_tokens:,} out" + (f", {self.reused:,} reused" if self.reused else "")
        )


class Author:
    """Writes completions of instructions.

    Args:
        model: a loaded model, a folder, a hub id, "embedded", a `pt.Endpoint`, or a function from
            prompts to completions.
        sampling: of the completions.
        seed: the n-th request of an author has the seed `seed` + n.
        journal: a file of the answers. What it holds already is not asked for again, so that an
            interrupted call costs nothing twice.
    """

    def __init__(
        self,
        model: AuthorLike,
        *,
        sampling: Sampling,
        seed: int = 0,
        journal: str | Path | None = None,
    ) -> None:
        self.cost = Cost()
        self._sampling, self._seed, self._number = sampling, seed, 0
        self._function: Writes | None = None
        self._spec: Any = None
        self._engine: Any = None
        if callable(model) and not hasattr(model, "tokenizer"):
            self._function = model
        else:
            self._spec = spec_of(model)  # type: ignore[arg-type]
        self._journal = Path(journal).expanduser() if journal is not None else None
        self._answers = _read(self._journal) if self._journal is not None else {}

    def write(self, prompts: Sequence[str]) -> list[str]:
        """A completion of each instruction, without white space around it.

        Raises:
            ConfigError: a function gave another number of texts. EndpointError: see `pt.Endpoint`.
        """
        texts: list[str] = []
        for start in range(0, len(prompts), _PART):
            texts += self._part(list(prompts[start : start + _PART]))
        return texts

    def _part(self, prompts: list[str]) -> list[str]:
        seeds = [self._seed + self._number + i for i in range(len(prompts))]
        self._number += len(prompts)
        keys = [_key(prompt, seed, self._sampling) for prompt, seed in zip(prompts, seeds)]
        missing = [i for i, key in enumerate(keys) if key not in self._answers]
        self.cost.reused += len(prompts) - len(missing)
        written = self._asked([prompts[i] for i in missing], [seeds[i] for i in missing])
        fresh = {keys[i]: text.strip() for i, text in zip(missing, written, strict=True)}
        self._answers |= fresh
        if self._journal is not None and fresh:
            self._journal.parent.mkdir(parents=True, exist_ok=True)
            with self._journal.open("a", encoding="utf-8") as file:
                for key, text in fresh.items():
                    file.write(json.dumps({"key": key, "text": text}) + "\n")
        return [self._answers[key] for key in keys]

    def _asked(self, prompts: list[str], seeds: list[int]) -> list[str]:
        if not prompts:
            return []
        if self._function is not None:
            return self._called(prompts)
        if self._engine is None:
            model = self._spec.load()
            is_server = isinstance(self._spec, EndpointModel)
            self._engine = model.engine if is_server else TorchEngine(model)
        tokenizer = self._spec.tokenizer
        before = self._server_counts()
        requests = [
            Request(tuple(encode_prompt(tokenizer, self._prompt(p))), self._sampling, n=1, seed=s)
            for p, s in zip(prompts, seeds, strict=True)
        ]
        samples = [group[0] for group in self._engine.generate(requests)]
        self.cost.requests += len(requests)
        if before is None:
            self.cost.prompt_tokens += sum(len(r.prompt_ids) for r in requests)
            self.cost.generated_tokens += sum(len(sample.ids) for sample in samples)
        else:
            after = self._server_counts()
            assert after is not None
            self.cost.prompt_tokens += after[0] - before[0]
            self.cost.generated_tokens += after[1] - before[1]
        return [decode_completion(tokenizer, sample) for sample in samples]

    def _prompt(self, text: str) -> Text:
        """A message where the model has a chat template, or is served; else text."""
        template = getattr(self._spec.tokenizer, "chat_template", None)
        if template or isinstance(self._spec, EndpointModel):
            return [{"role": "user", "content": text}]
        return text

    def _server_counts(self) -> tuple[int, int] | None:
        if not isinstance(self._spec, EndpointModel):
            return None
        stats = self._spec.engine.stats
        return stats.prompt_tokens, stats.generated_tokens

    def _called(self, prompts: list[str]) -> list[str]:
        assert self._function is not None
        try:
            texts = self._function(prompts)
        except (PosttrainError, KeyboardInterrupt):
            raise
        except Exception as error:
            raise ConfigError(f"the author raised {type(error).__name__}: {error}") from error
        right = isinstance(texts, list) and len(texts) == len(prompts)
        if not right or not all(isinstance(text, str) for text in texts):
            raise ConfigError(
                f"the author returned {shown(texts)} for {len(prompts)} prompts; it must return a "
                "list with one text for each"
            )
        self.cost.requests += len(prompts)
        return texts


def _key(prompt: str, seed: int, sampling: Sampling) -> str:
    content = json.dumps([prompt, seed, repr(sampling)])
    return hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _read(journal: Path) -> dict[str, str]:
    """The answers of a journal, up to a line that was being written when a process ended."""
    answers: dict[str, str] = {}
    if not journal.exists():
        return answers
    content = journal.read_text(encoding="utf-8")
    for line in content.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        answers[row["key"]] = row["text"]
    if content and not content.endswith("\n"):  # what follows begins on a line of its own
        with journal.open("a", encoding="utf-8") as file:
            file.write("\n")
    return answers

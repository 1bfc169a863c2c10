"""Whether a server can stand in for the model that is trained, asked before it samples."""

from __future__ import annotations

from posttrain.engines.server_protocol import LogprobsMode, ServerFacts, ServerProtocol
from posttrain.errors import ConfigError
from posttrain.models.language_model import LanguageModel
from posttrain.types import Sampling


def mode_for(sampling: Sampling) -> LogprobsMode:
    """The log-probs that training on these samples needs: of the distribution that is trained,
    softmax(logits / temperature).
    """
    return "raw_logprobs" if sampling.temperature in (0, 1) else "processed_logprobs"


def check_facts(
    facts: ServerFacts,
    server: ServerProtocol,
    model: LanguageModel,
    sampling: Sampling,
    *,
    whole: bool,
) -> None:
    """Refuse a server that cannot stand in for the model.

    Args:
        whole: whether whole models are sent to it, and no adapters.
    Raises:
        ConfigError: says by what, and how to start the server.
    """
    url = server.client.url
    ours = str(model.pretrained.dtype).removeprefix("torch.")
    if facts.dtype is not None and facts.dtype != ours:
        raise ConfigError(
            f"engine.url: the server at {url} computes in {facts.dtype} and the trainer in {ours}; "
            f"start it with --dtype {ours}, or set model.dtype: {facts.dtype}"
        )
    least = sampling.max_tokens + 1
    if facts.max_model_len is not None and facts.max_model_len < least:
        raise ConfigError(
            f"engine.url: the server at {url} takes {facts.max_model_len} tokens of prompt and "
            f"completion together, and completions may have {sampling.max_tokens}; start it with a "
            "larger --max-model-len, or lower sampling.max_tokens"
        )
    last = model.config.vocab_size - 1
    if not server.takes(last, facts.model):
        raise ConfigError(
            f"engine.url: the server at {url} refuses token id {last}, the last of the model's "
            "vocabulary; it serves another model"
        )
    truncated = sampling.top_p < 1 or sampling.top_k > 0 or sampling.min_p > 0
    needed = mode_for(sampling)
    is_plain = sampling.temperature in (0, 1) and not truncated
    if facts.logprobs_mode is not None and facts.logprobs_mode != needed and not is_plain:
        raise ConfigError(
            f"engine.url: the server at {url} reports {facts.logprobs_mode}, and these samplings "
            f"need {needed} (temperature {sampling.temperature:g}); start it with --logprobs-mode "
            f"{needed}"
        )
    if whole and facts.is_tied:
        raise ConfigError(
            f"engine.url: the server at {url} holds a vocabulary projection that is tied to the "
            "embeddings, and leaves it as it was when weights are reloaded; let engine.launch "
            "start it, or start it from a folder that "
            "posttrain.engines.server_weights.save_for_servers(model, folder) has written"
        )

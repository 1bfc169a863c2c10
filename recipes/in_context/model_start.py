"""Write the start of the embedded in-context model: tokenizer, config and first weights.

    python recipes/in_context/model_start.py runs/in_context_start
    posttrain run recipes/in_context/model.yaml

The tokenizer is a byte-level BPE of the words that the training's texts are made of, so that each
of them is one token behind a space, and any other text is spelt with parts of words and bytes.

From small random weights, attention that matches and copies is found only after thousands of steps.
So the start has it roughly, as a structured initialisation (compare arXiv 2305.09828), and training
does the rest. Embeddings are random in the first half of the dimensions (IDENTITY), with a constant
in the last one.

    layer 1    looks a few tokens back and writes what it sees into the second half (CONTEXT):
               scores are a sum of cosines of the distance, by rotary frequencies
    layer 2    compares CONTEXT with CONTEXT in the slow rotary dimensions, and copies IDENTITY
    layer 3    small random weights, as all MLPs
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from posttrain.tasks.labelled_words import WORDS

SPECIAL = ["<|pad|>", "<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
VOCABULARY = 1024  # at most; the words have fewer parts
HIDDEN, HEAD, HEADS, LAYERS = 64, 32, 2, 3
IDENTITY, CONTEXT, CONSTANT = slice(0, 32), slice(32, 63), 63
FAST = range(1, 6)  # rotary pairs by which layer 1 looks back
SLOW = range(7, 16)  # pairs that hardly turn within a prompt
DISTANCES = (1.0, 3.0)  # tokens that the two heads of layer 1 look back, roughly
SCALE = 0.15  # of the residual stream, so that logits are of order 1

CHAT_TEMPLATE = """{{- bos_token -}}
{%- for message in messages -%}
{{- '<|' + message['role'] + '|> ' + message['content'] -}}
{%- if message['role'] == 'assistant' -%}{{- '<|end|>' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"""


def make_tokenizer() -> PreTrainedTokenizerFast:
    """The words' tokens, parts of them, and bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([f" {word}" for word in WORDS] * 3, trainer)
    begin = tokenizer.token_to_id("<|begin|>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", begin)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|begin|>",
        eos_token="<|end|>",
        pad_token="<|pad|>",
        additional_special_tokens=SPECIAL[3:],
        chat_template=CHAT_TEMPLATE,
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )


def make_config(vocabulary: int) -> LlamaConfig:
    """A Llama of 0.2 million parameters."""
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=HIDDEN,
        intermediate_size=128,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        head_dim=HEAD,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=True,
        architectures=["LlamaForCausalLM"],
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )


@torch.no_grad()
def initialise(model: LlamaForCausalLM) -> None:
    """Set the first weights, as the module says."""
    torch.manual_seed(0)
    half = HEAD // 2
    frequency = 1e6 ** (-torch.arange(half) / half)
    embeddings = model.model.embed_tokens.weight
    embeddings.normal_(std=0.02)
    embeddings[:, IDENTITY].normal_(std=SCALE)
    embeddings[:, CONSTANT] = 3 * SCALE
    # What is copied leaves out the marks of turns, which every text has.
    marks, _ = torch.linalg.qr(embeddings[: len(SPECIAL), IDENTITY].T)
    copied = torch.eye(HEAD) - marks @ marks.T
    first, second = model.model.layers[0].self_attn, model.model.layers[1].self_attn
    for layer in (first, second):
        for weight in (layer.q_proj.weight, layer.k_proj.weight):
            weight.normal_(std=0.02)
        layer.v_proj.weight.zero_()
        layer.o_proj.weight.zero_()
    for head, distance in enumerate(DISTANCES):
        rows = slice(head * HEAD, (head + 1) * HEAD)
        for pair in FAST:
            # q . k of a pair is 0.5 cos(frequency (distance - back)): the query is turned ahead.
            angle = -frequency[pair] * distance
            real, imaginary = head * HEAD + pair, head * HEAD + pair + half
            first.q_proj.weight[real, CONSTANT] = torch.cos(angle)
            first.q_proj.weight[imaginary, CONSTANT] = torch.sin(angle)
            first.k_proj.weight[real, CONSTANT] = 1.0
            first.k_proj.weight[imaginary, CONSTANT] = 0.0
        first.v_proj.weight[rows, IDENTITY] = copied
        first.o_proj.weight[CONTEXT, rows] = 2 * SCALE * torch.eye(HEAD)[: HEAD - 1]
        matched = [row for pair in SLOW for row in (head * HEAD + pair, head * HEAD + pair + half)]
        compared = torch.randn(len(matched), CONTEXT.stop - CONTEXT.start) / len(matched) ** 0.5
        for weight in (second.q_proj.weight, second.k_proj.weight):
            weight[matched, CONTEXT] = 2 * compared
        second.v_proj.weight[rows, IDENTITY] = copied
        second.o_proj.weight[IDENTITY, rows] = 2 * SCALE * torch.eye(HEAD)


def write(folder: Path) -> None:
    """Write tokenizer, config, generation config and weights."""
    tokenizer = make_tokenizer()
    config = make_config(len(tokenizer))
    model = LlamaForCausalLM(config)
    initialise(model)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=0).save_pretrained(folder)


if __name__ == "__main__":
    write(Path(sys.argv[1]))

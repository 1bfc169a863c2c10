"""Write the start of the embedded tool model: the base model with tokens for tools and a template.

    python recipes/tools_model.py runs/tools_start
    posttrain run recipes/tools_model.yaml

The tags of a call are single tokens that decoding keeps, as in Qwen's and Hermes's templates. Their
embeddings begin at the mean of all others.
"""

from __future__ import annotations

import json
import sys
from importlib.resources import files
from pathlib import Path

import torch
from tokenizers import AddedToken
from transformers import AutoModelForCausalLM, AutoTokenizer

TAGS = ("<tool_call>", "</tool_call>")

CHAT_TEMPLATE = """{{- bos_token -}}
{%- if tools -%}
{{- '<|system|>\\nTools:' -}}
{%- for tool in tools -%}
{%- set function = tool['function'] if 'function' in tool else tool -%}
{{- ' ' + function['name'] + '(' -}}
{{- (function['parameters']['properties'] or {}) | list | join(', ') + ')' -}}
{%- endfor -%}
{{- '<|end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{{- '<|' + message['role'] + '|>\\n' + (message['content'] or '') -}}
{%- for call in message['tool_calls'] or [] -%}
{%- set function = call['function'] if 'function' in call else call -%}
{%- set arguments = function['arguments'] -%}
{{- '<tool_call>{"name": "' + function['name'] + '", "arguments": ' -}}
{{- (arguments if arguments is string else arguments | tojson) + '}</tool_call>' -}}
{%- endfor -%}
{{- '<|end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>\\n' -}}{%- endif -%}"""


def write(folder: Path) -> None:
    """Write weights, tokenizer and template."""
    base = str(files("posttrain") / "assets" / "base")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<|tool|>"]}, replace_extra_special_tokens=False
    )
    tokenizer.add_tokens([AddedToken(tag, normalized=False, special=False) for tag in TAGS])
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.model_max_length = 1024
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    embeddings = model.get_input_embeddings().weight.data
    embeddings[262:] = embeddings[:262].mean(0)
    model.config.max_position_embeddings = 1024
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
    print(json.dumps({"folder": sys.argv[1]}))

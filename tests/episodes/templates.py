"""Chat templates in the manner of well-known models, and a small tokenizer for them."""

from __future__ import annotations

import functools
from typing import Any

# Thoughts stand only behind the last user message; results of tools are the user's.
QWEN3 = """
{%- if tools %}
{{- '<|im_start|>system\\n# Tools\\n' }}
{%- for tool in tools %}{{- tool | tojson + '\\n' }}{%- endfor %}
{{- 'Answer with <tool_call>...</tool_call>.<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(last=-1) %}
{%- for message in messages %}
{%- if message.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}
{%- endfor %}
{%- for message in messages %}
{%- if message.role in ('user', 'system') %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- elif message.role == 'assistant' %}
{%- set thought = message.reasoning_content or '' %}
{%- set content = message.content %}
{%- if not thought and '</think>' in content %}
{%- set thought = content.split('</think>')[0].split('<think>')[-1].strip('\\n') %}
{%- set content = content.split('</think>')[-1].lstrip('\\n') %}
{%- endif %}
{{- '<|im_start|>assistant\\n' }}
{%- if loop.index0 > ns.last and (loop.last or thought) %}
{{- '<think>\\n' + thought + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
{%- else %}{{- content }}{%- endif %}
{%- for call in message.tool_calls or [] %}
{%- if not loop.first or content %}{{- '\\n' }}{%- endif %}
{{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
{{- call.function.arguments | tojson }}{{- '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- elif message.role == 'tool' %}
{%- if messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
{{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\\n' }}{%- endif %}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""

# The beginning of the thought is in the prompt.
QWEN3_THINKING = QWEN3.removesuffix("'<|im_start|>assistant\\n' }}{%- endif %}") + (
    "'<|im_start|>assistant\\n<think>\\n' }}{%- endif %}"
)

# Calls are JSON in a turn of their own; contents are trimmed.
LLAMA3 = """
{{- bos_token }}
{%- for message in messages %}
{%- if message.role == 'tool' %}
{{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' + message.content + '<|eot_id|>' }}
{%- elif message.tool_calls %}
{%- if message.tool_calls | length != 1 %}{{- raise_exception('one call at a time') }}{%- endif %}
{%- set call = message.tool_calls[0].function %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n{"name": "' + call.name + '", ' }}
{{- '"parameters": ' + (call.arguments | tojson) + '}<|eot_id|>' }}
{%- else %}
{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' }}
{%- if tools and message.role == 'user' and loop.index0 == 0 %}
{%- for tool in tools %}{{- tool | tojson + '\\n' }}{%- endfor %}
{%- endif %}
{{- message.content | trim + '<|eot_id|>' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}{# <|python_tag|> #}"""

GEMMA = """
{{- bos_token }}
{%- for message in messages %}
{%- if message.role not in ('user', 'assistant') %}
{{- raise_exception('only user and assistant') }}
{%- endif %}
{%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('roles must alternate') }}
{%- endif %}
{{- '<start_of_turn>' + ('model' if message.role == 'assistant' else 'user') + '\\n' }}
{{- message.content | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\\n' }}{%- endif %}"""

# Tools stand before the last user message; calls have ids.
MISTRAL = """
{{- bos_token }}
{%- set ns = namespace(last=-1) %}
{%- for message in messages %}
{%- if message.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}
{%- endfor %}
{%- for message in messages %}
{%- if message.role == 'user' %}
{%- if tools and loop.index0 == ns.last %}
{{- '[AVAILABLE_TOOLS]' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}
{%- endif %}
{{- '[INST]' + message.content + '[/INST]' }}
{%- elif message.tool_calls %}
{{- '[TOOL_CALLS][' }}
{%- for call in message.tool_calls %}
{%- if call.id | length != 9 %}{{- raise_exception('ids have nine characters') }}{%- endif %}
{{- '{"name": "' + call.function.name + '", "arguments": ' + (call.function.arguments | tojson) }}
{{- ', "id": "' + call.id + '"}' }}{%- if not loop.last %}{{- ', ' }}{%- endif %}
{%- endfor %}
{{- ']' + eos_token }}
{%- elif message.role == 'assistant' %}{{- message.content + eos_token }}
{%- else %}
{{- '[TOOL_RESULTS]{"content": ' + (message.content | tojson) + ', "call_id": "' }}
{{- message.tool_call_id + '"}[/TOOL_RESULTS]' }}
{%- endif %}
{%- endfor %}"""

# template, token that ends a turn, further special tokens
STYLES: dict[str, tuple[str, str, list[str]]] = {
    "qwen3": (QWEN3, "<|im_end|>", ["<|im_start|>", "<|endoftext|>"]),
    "qwen3_thinking": (QWEN3_THINKING, "<|im_end|>", ["<|im_start|>", "<|endoftext|>"]),
    "llama3": (
        LLAMA3,
        "<|eot_id|>",
        ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>"],
    ),
    "gemma": (GEMMA, "<end_of_turn>", ["<bos>", "<start_of_turn>"]),
    "mistral": (MISTRAL, "</s>", ["<s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[TOOL_RESULTS]"]),
}
CORPUS = [
    "What is the weather in Paris? The assistant thinks and answers. 12 + 30 = 42\n\n",
    '{"name": "add", "arguments": {"a": 12, "b": 30}} <tool_call>\n</tool_call> user assistant',
    "<think>\nI need to add twelve and thirty.\n</think>\n\nThe answer is 42.",
] * 4


@functools.cache
def tokenizer(style: str) -> Any:
    """A byte-level BPE tokenizer with merges, and the template of a style."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    template, end, special = STYLES[style]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=[end, *special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    bos = next((t for t in special if t in ("<|begin_of_text|>", "<bos>", "<s>")), None)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=end,
        bos_token=bos,
        chat_template=template,
        clean_up_tokenization_spaces=False,
    )


def letters(tok: Any, text: str) -> list[int]:
    """Ids of a text one letter at a time, as no tokenizer writes it; special tokens are whole."""
    ids: list[int] = []
    for i in tok(text, add_special_tokens=False)["input_ids"]:
        if i in tok.added_tokens_decoder:
            ids.append(i)
            continue
        ids += [tok.convert_tokens_to_ids(c) for c in tok.convert_ids_to_tokens(i)]
    return ids

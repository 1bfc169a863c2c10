"""Writes a student of half the depth: the first and the last layer of the embedded base model.

python recipes/pipelines/student.py runs/pipelines/student
"""

from __future__ import annotations

import sys
from pathlib import Path

from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from posttrain.model_config import model_location

LAYERS = (0, 3)


def main(folder: Path) -> None:
    """Write the model and its tokenizer into a folder."""
    place = model_location("embedded")
    model = AutoModelForCausalLM.from_pretrained(place)
    layers = [model.model.layers[i] for i in LAYERS]
    for place_in_model, layer in enumerate(layers):
        layer.self_attn.layer_idx = place_in_model
    model.model.layers = nn.ModuleList(layers)
    model.config.num_hidden_layers = len(layers)
    model.config.layer_types = model.config.layer_types[: len(layers)]
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(place).save_pretrained(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

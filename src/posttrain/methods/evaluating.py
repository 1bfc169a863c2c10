"""What a run tells about its model: evaluation.json, and the table of a pipeline's stages."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from posttrain.config import Component
from posttrain.engines.torch import TorchEngine
from posttrain.errors import ConfigError
from posttrain.evaluation.run import Evaluation, compare
from posttrain.models.language_model import LanguageModel
from posttrain.training.checkpoint import write_text_whole

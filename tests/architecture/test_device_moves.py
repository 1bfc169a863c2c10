"""Training and sampling run on a device that is not the CPU: no tensor is left behind on the host,
and samples are those of the CPU. (`tests/other_device.py`: there need be no GPU.)
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch.utils.backend_registration as backends

SCRIPT = Path(__file__).parent.parent / "other_device.py"


@pytest.mark.skipif(
    not hasattr(backends, "_setup_privateuseone_for_python_backend"),
    reason="this version of PyTorch has no backends in Python",
)
def test_everything_moves_to_the_device() -> None:
    ran = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert ran.stdout.split() == ["trained", "sft", "trained", "dpo", "trained", "grpo", "sampled"]

"""What can be known of NCCL without a GPU: who may not ask for it."""

from __future__ import annotations

import pytest
import torch

from posttrain.engines.nccl import connector
from posttrain.errors import ConfigError


def test_a_model_on_a_cpu_cannot_send_by_nccl() -> None:
    with pytest.raises(ConfigError, match=r"^engine\.sync: "):
        connector(torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_group_of_one_broadcasts_to_itself() -> None:
    device = torch.device("cuda")
    identity, join = connector(device)(1)
    assert len(identity) == 172  # 128 bytes in base64
    group = join()
    tensor = torch.arange(4.0, device=device)
    group.broadcast(tensor)
    assert tensor.tolist() == [0.0, 1.0, 2.0, 3.0]
    group.close()

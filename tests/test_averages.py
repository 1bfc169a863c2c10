import math

import torch

from posttrain.averages import Averages


def test_unequal_parts_are_averaged_once() -> None:
    a, b = Averages(), Averages()
    a.add("x", 10.0, 2)
    b.add("x", torch.tensor(2.0), 8)
    a.total("loss", 0.5)
    b.total("loss", 0.25)
    a.largest("gap", 1.0)
    b.largest("gap", 3.0)
    a.merge(b)
    assert a.means() == {"x": 1.2, "loss": 0.75, "gap": 3.0}


def test_of_several_updates_the_mean_total_is_told() -> None:
    step = Averages()
    for shares in ((0.5, 0.25), (0.25,)):
        update = Averages()
        for share in shares:
            update.total("loss", share)
        update.settle()
        step.merge(update)
    assert step.means() == {"loss": 0.5}


def test_nothing_to_average_is_nan() -> None:
    a = Averages()
    a.add("x", 0.0, 0)
    assert math.isnan(a.means()["x"])

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_origin

import pytest

from posttrain.annotations import opaque
from posttrain.errors import ConfigError
from posttrain.typecheck import check, describe


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (1, float, 1.0),
        ("1e-5", float, 1e-5),
        (3.0, int, 3),
        (None, int | None, None),
        ([1, 2], tuple[float, ...], (1.0, 2.0)),
        ({"a": 1}, dict[str, float], {"a": 1.0}),
        ("b", Literal["a", "b"], "b"),
        ("x", str | list[str], "x"),
        (["x"], str | list[str], ["x"]),
    ],
)
def test_accepts(value: object, hint: Any, expected: object) -> None:
    result = check(value, hint, "key")
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    ("value", "hint", "message"),
    [
        ("x", int, "key: 'x' is text, but a whole number is wanted"),
        (True, int, "true/false"),
        (1.5, int, "a whole number is wanted"),
        (None, float, "key: None is empty"),
        ([1, "x"], list[int], r"key\[1\]: 'x'"),
        ("c", Literal["aa", "cc"], "not a choice"),
        (1, bool, "true or false is wanted"),
    ],
)
def test_refuses(value: object, hint: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(value, hint, "key")


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), -float("inf"), "nan", "inf", "1e400", "-1e400", 10**400]
)
@pytest.mark.parametrize(
    "hint",
    [
        float,
        int,
        float | None,
        int | None,
        int | float,
        list[float],
        dict[str, float],
    ],
)
def test_numbers_are_finite(value: object, hint: Any) -> None:
    origin = get_origin(hint)
    wrapped = [value] if origin is list else {"a": value} if origin is dict else value
    with pytest.raises(ConfigError, match=r"key.*(is not finite; settings are finite numbers)"):
        check(wrapped, hint, "key")


def test_settings_of_any_type_are_finite_too_and_text_stays_text() -> None:
    with pytest.raises(ConfigError, match="key: nan is not finite"):
        check(float("nan"), Any, "key")
    assert check("nan", str, "key") == "nan" and check("inf", Any, "key") == "inf"
    assert check(None, float | None, "key") is None
    with pytest.raises(ConfigError, match="a whole number of 1329 bits is not finite"):
        check(10**400, float, "key")


Mode = Literal["fast", "slow"]


@dataclass
class Part:
    mode: Mode
    sizes: tuple[int, int] = (1, 2)


def test_aliases_dataclasses_and_pairs() -> None:
    assert check({"mode": "slow", "sizes": [3, 4.0]}, Part | None, "part") == Part("slow", (3, 4))
    for value, place in (
        ({"mode": "quick"}, "part.mode"),
        ({"mode": "fast", "sizes": [1]}, "part.sizes"),
        ({"mode": "fast", "size": 1}, "'part.size'"),
        ({}, "'part.mode'"),
    ):
        with pytest.raises(ConfigError, match=place):
            check(value, Part, "part")


def test_objects_of_classes_are_passed_through() -> None:
    path = Path("x")
    assert check(path, Path | None, "key") is path
    assert check(len, Callable[..., Any], "key") is len
    with pytest.raises(ConfigError, match="object of type Path"):
        check("x", Path, "key")
    unknown = opaque("Tensor")
    assert check(path, unknown, "key") is path
    with pytest.raises(ConfigError, match="Tensor"):
        check(1.0, unknown | None, "key")


def test_the_text_of_a_type_is_no_type() -> None:
    with pytest.raises(TypeError, match="'float'"):
        check(1.0, "float", "key")


def test_types_in_words() -> None:
    assert describe(list[int] | None) == "a list of a whole number or nothing"
    assert describe(Mode) == "one of 'fast', 'slow'"
    assert describe(Part) == "a mapping with the keys of Part"

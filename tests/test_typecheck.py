import pytest

from posttrain.errors import ConfigError
from posttrain.typecheck import check


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        (1, "float", 1.0),
        ("1e-5", "float", 1e-5),
        (3.0, "int", 3),
        (None, "int | None", None),
        ([1, 2], "tuple[float, ...]", (1.0, 2.0)),
        ({"a": 1}, "dict[str, float]", {"a": 1.0}),
        ("b", "Literal['a', 'b']", "b"),
        ("x", "str | list[str]", "x"),
        (["x"], "str | list[str]", ["x"]),
    ],
)
def test_accepts(value: object, annotation: str, expected: object) -> None:
    result = check(value, annotation, "key")
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    ("value", "annotation", "message"),
    [
        ("x", "int", "key: 'x' is text, but a whole number is wanted"),
        (True, "int", "true/false"),
        (1.5, "int", "a whole number is wanted"),
        (None, "float", "key: None is empty"),
        ([1, "x"], "list[int]", r"key\[1\]: 'x'"),
        ("c", "Literal['aa', 'cc']", "not a choice"),
        (1, "bool", "true or false is wanted"),
    ],
)
def test_refuses(value: object, annotation: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(value, annotation, "key")


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), -float("inf"), "nan", "inf", "1e400", "-1e400", 10**400]
)
@pytest.mark.parametrize(
    "annotation",
    [
        "float",
        "int",
        "float | None",
        "int | None",
        "int | float",
        "list[float]",
        "dict[str, float]",
    ],
)
def test_numbers_are_finite(value: object, annotation: str) -> None:
    given = (
        [value]
        if annotation.startswith("list")
        else {"a": value}
        if annotation.startswith("dict")
        else value
    )
    with pytest.raises(ConfigError, match=r"key.*(is not finite; settings are finite numbers)"):
        check(given, annotation, "key")


def test_settings_of_any_type_are_finite_too_and_text_stays_text() -> None:
    with pytest.raises(ConfigError, match="key: nan is not finite"):
        check(float("nan"), "Any", "key")
    assert check("nan", "str", "key") == "nan" and check("inf", "Any", "key") == "inf"
    assert check(None, "float | None", "key") is None
    with pytest.raises(ConfigError, match="a whole number of 1329 bits is not finite"):
        check(10**400, "float", "key")

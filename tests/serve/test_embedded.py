"""A model in memory and adapters on it, behind the routes."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest
from adapter_folders import adapter_folder

from posttrain.config import LoraConfig
from posttrain.errors import ConfigError, ModelError
from posttrain.models.load import load_model
from posttrain.serve.embedded import check_adapters, served_model
from posttrain.serve.service import Service

pytest.importorskip("peft", reason="adapters need the extra peft")

NAMES = ["tiny", "red", "blue"]
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def folders(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    place = tmp_path_factory.mktemp("adapters")
    red = adapter_folder(tiny_folder, place / "red", LoraConfig(r=2), seed=1)
    blue = adapter_folder(tiny_folder, place / "blue", LoraConfig(r=4), seed=2)
    return {"red": str(red), "blue": str(blue)}


def bodies(name: str) -> list[tuple[str, dict[str, Any]]]:
    """Requests to both routes, with the same seeds for every model."""
    chat = {"model": name, "messages": HELLO, "n": 2, "seed": 3, "max_tokens": 12}
    text = {"model": name, "prompt": "Q: 1+1", "seed": 4, "max_tokens": 9, "logprobs": 2}
    scored = {"model": name, "prompt": "Q: 1+1", "echo": True, "logprobs": 0, "max_tokens": 0}
    return [
        ("chat/completions", chat),
        ("chat/completions", {**chat, "logprobs": True, "top_logprobs": 2, "temperature": 0}),
        ("completions", {**text, "return_token_ids": True}),
        ("completions", scored),
    ]


async def answers(http: Any, names: list[str]) -> dict[str, list[Any]]:
    """The choices of all requests to all models, which run at the same time."""
    jobs = [(name, *job) for name in names for job in bodies(name)]
    posts = [http.post(f"/v1/{path}", json=body) for _, path, body in jobs]
    results: dict[str, list[Any]] = {name: [] for name in names}
    for (name, *_), response in zip(jobs, await asyncio.gather(*posts), strict=True):
        assert response.status_code == 200, response.text
        results[name].append(rounded(response.json()["choices"]))
    return results


def rounded(value: Any) -> Any:
    """Log-probs to four digits: products of other shapes round differently."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    return [rounded(part) for part in value] if isinstance(value, list) else value


def ask(client: Any, service: Service, names: list[str]) -> dict[str, list[Any]]:
    async def run() -> Any:
        async with client(service) as http:
            return await answers(http, names)

    return asyncio.run(run())


def test_each_name_is_answered_as_by_its_model_alone(
    client: Any, tiny_folder: Path, folders: dict[str, str]
) -> None:
    alone = {}
    for name, place in {"tiny": str(tiny_folder), **folders}.items():
        served = served_model(load_model(place), name)
        alone |= ask(client, Service(served), [name])
    assert alone["tiny"] != alone["red"] != alone["blue"] != alone["tiny"]
    served = served_model(load_model(tiny_folder), "tiny", folders)
    assert ask(client, Service(served), NAMES) == alone


def test_models_list_the_adapters_and_unknown_names_name_them(
    client: Any, tiny_folder: Path, folders: dict[str, str]
) -> None:
    service = Service(served_model(load_model(tiny_folder), "tiny", folders))

    async def run() -> Any:
        async with client(service) as http:
            models = (await http.get("/v1/models")).json()["data"]
            wrong = [
                await http.post("/v1/chat/completions", json={"model": name, "messages": HELLO})
                for name in ("green", "green@majority_vote", "red@nothing")
            ]
            return models, (await http.get("/v1/models/red")).json(), wrong

    models, red, wrong = asyncio.run(run())
    assert [m["id"] for m in models if "@" not in m["id"]] == NAMES
    assert "blue@majority_vote" in [m["id"] for m in models]
    assert red["parent"] == "tiny" and "parent" not in models[0]
    for response in wrong:
        error = response.json()["error"]
        assert response.status_code == 404 and error["code"] == "model_not_found"
        assert all(repr(name) in error["message"] for name in NAMES)


def test_messages_are_rendered_by_the_adapters_own_template(
    client: Any, tiny_folder: Path, folders: dict[str, str], tmp_path: Path
) -> None:
    place = tmp_path / "shouting"
    shutil.copytree(folders["red"], place)
    (place / "chat_template.jinja").write_text("{{ bos_token }}{{ messages[0].content | upper }}")
    model = load_model(tiny_folder)
    counts = {}
    for own in (True, False):
        service = Service(served_model(model, "tiny", {"shouting": str(place)}, own_templates=own))
        prompt = asyncio.run(prompt_of(service, "shouting"))
        counts[own] = model.tokenizer.decode(list(prompt), skip_special_tokens=True)
    assert counts[True] == "HELLO" and "hello" in counts[False]


async def prompt_of(service: Service, adapter: str) -> tuple[int, ...]:
    try:
        return await service.prompt_of_messages(HELLO, [], adapter)
    finally:
        service.searches.shutdown()


@pytest.mark.parametrize("name", ["tiny", "", "a@b", "a\nb"])
def test_names_that_requests_cannot_give_are_refused(folders: dict[str, str], name: str) -> None:
    with pytest.raises(ConfigError):
        check_adapters({name: folders["red"]}, "tiny")


def test_folders_are_checked_before_anything_is_served(
    tiny_folder: Path, folders: dict[str, str]
) -> None:
    with pytest.raises(ModelError, match="adapter_config"):
        check_adapters({"red": str(tiny_folder)}, "tiny")
    with pytest.raises(ModelError):
        served_model(load_model(folders["red"]), "tiny", folders)


def test_what_is_off_is_told(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from posttrain.engines.torch import TorchEngine

    def refuse(*_: object) -> None:
        raise ConfigError("no such tokenizer")

    monkeypatch.setattr(TorchEngine, "compile", refuse)
    told: list[str] = []
    served = served_model(load_model(tiny_folder), "tiny", notice=told.append)
    assert served.compile_constraint is None and "no such tokenizer" in told[0]

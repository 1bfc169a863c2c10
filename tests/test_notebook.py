"""docs/first_steps.ipynb runs, and what it shows renders in cells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import posttrain

NOTEBOOK = Path(__file__).resolve().parent.parent / "docs" / "first_steps.ipynb"


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    reason = "install the extra notebook: pip install 'posttrain[notebook]'"
    nbclient = pytest.importorskip("nbclient", reason=reason)
    nbformat = pytest.importorskip("nbformat", reason=reason)
    pytest.importorskip("ipykernel", reason=reason)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    folder = tmp_path_factory.mktemp("notebook")
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    with pytest.MonkeyPatch.context() as patch:
        # The kernel runs in another folder, and must import the package that is tested.
        patch.setenv("PYTHONPATH", str(Path(posttrain.__file__).parent.parent.resolve()))
        client.execute()
    return notebook


def outputs(notebook: Any, source: str) -> dict[str, Any]:
    """The last output of the cell whose last line is `source`."""
    (cell,) = [
        c
        for c in notebook.cells
        if c.cell_type == "code" and c.source.splitlines()[-1].strip() == source
    ]
    return dict(cell.outputs[-1].data)


def test_the_notebook_is_kept_without_outputs() -> None:
    nbformat = pytest.importorskip("nbformat", reason="install the extra notebook")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert [c for c in notebook.cells if c.get("outputs")] == []


def test_a_training_shows_its_curves(executed: Any) -> None:
    for name in ("fitted", "learnt"):
        assert "<svg" in outputs(executed, name)["text/html"]


def test_metrics_are_a_table(executed: Any) -> None:
    page = outputs(executed, "fitted.metrics")["text/html"]
    assert "<table" in page and "loss" in page


def test_rollouts_are_a_browser(executed: Any) -> None:
    page = outputs(executed, "learnt.rollouts")["text/html"]
    assert page.count("<details") > 3 and "gold answer" in page


def test_an_evaluation_renders(executed: Any) -> None:
    assert "accuracy" in outputs(executed, "before")["text/html"].lower()

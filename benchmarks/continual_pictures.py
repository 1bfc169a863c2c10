"""The pictures of docs/guides/forgetting.md, from a run of recipes/continual_learning.yaml.

    posttrain continual recipes/continual_learning.yaml
    .venv/bin/python benchmarks/continual_pictures.py runs/continual_learning

Writes docs/guides/continual_naive.svg and continual_replay.svg: accuracy on each task after each
stage, the mean over seeds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from posttrain.evaluation.sequences import read_sequences
from posttrain.files import write_text_whole
from posttrain.report.sequences import accuracy_map, mean_scores

GUIDES = Path(__file__).resolve().parent.parent / "docs" / "guides"
TITLES = {"naive": "without a method", "replay": "with replay"}


def pictures(run: Path, folder: Path = GUIDES) -> list[Path]:
    """Write the pictures of a run into a folder."""
    result = read_sequences(run)
    values = result.values()
    files = []
    for kind, title in TITLES.items():
        name = next(label for label in result.scores if label.partition("(")[0] == kind)
        number = len(result.seeds)
        text = f"{title}, mean over {number} seed{'s' * (number != 1)}"
        files.append(folder / f"continual_{kind}.svg")
        write_text_whole(files[-1], accuracy_map(text, result.stages, mean_scores(values, name)))
    return files


def main() -> None:
    """Write the pictures of a run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path, help="folder of the run")
    for file in pictures(parser.parse_args().run):
        print(f"wrote {file}")


if __name__ == "__main__":
    main()

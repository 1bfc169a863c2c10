"""The site: `make docs` builds it into docs/_build/html; every warning is an error."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

project = "posttrain"
copyright = "the posttrain authors, Apache-2.0"
extensions = ["myst_nb"]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
nb_execution_mode = "force"  # its outputs are made when the site is built, and never kept
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
nb_output_stderr = "remove"  # warnings of the machine that builds the site
html_theme = "furo"
html_title = "posttrain"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
suppress_warnings: list[str] = []


def setup(app: Any) -> None:
    """Write the reference before the pages are read."""
    import reference

    app.connect("builder-inited", lambda app: reference.write(HERE / "reference"))

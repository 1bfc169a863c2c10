"""The command of a sandbox."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from posttrain.sandbox.bubblewrap import GUEST, guest_code, interpreter, sandbox_command


def test_the_command_shares_nothing_but_python() -> None:
    words = sandbox_command("bwrap", 7)
    assert words[0] == "bwrap" and "--unshare-all" in words and "--clearenv" in words
    assert "--share-net" not in words and "--bind" not in words
    bound = [words[i + 1] for i, word in enumerate(words) if word == "--ro-bind"]
    assert str(GUEST) in bound
    home = str(Path.home())
    assert not {"/", home, "/etc", "/proc", str(Path.cwd())} & set(bound)
    devices = [words[i + 1] for i, word in enumerate(words) if word == "--dev-bind"]
    assert set(devices) == {"/dev/null", "/dev/zero", "/dev/urandom"}
    remounted = words.index("--remount-ro")
    assert words[remounted + 1] == "/" and words[remounted + 2] == "--"


def test_the_guest_runs_the_same_python_without_packages() -> None:
    command, environment = interpreter()
    assert command[0] == os.path.realpath(sys.executable) and "-S" in command
    assert environment["PYTHONHASHSEED"] == "0"
    assert "main(5, True" in guest_code(5, isolated=True)


def test_the_guest_imports_the_standard_library_alone() -> None:
    allowed = sys.stdlib_module_names | {"posttrain"}
    for path in GUEST.glob("*.py"):
        for line in path.read_text().splitlines():
            if line.startswith(("import ", "from ")):
                name = line.split()[1]
                assert name.split(".")[0] in allowed
                assert not name.startswith("posttrain") or name.startswith(
                    "posttrain.sandbox.guest"
                )

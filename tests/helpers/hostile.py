"""Code that tries to get out of the sandbox, to outlive it or to eat the machine, with what each run has to end with.

Every snippet prints ESCAPED where an attempt succeeded. @WORDS@ are replaced by the test: places and sockets of the host.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Snippet:
    """`outcome` may name several, separated by `|`, where chance decides. `shown` is to be in the output."""

    name: str
    outcome: str
    code: str
    shown: str = ""
    seconds: float = 20.0
    exit_code: int | None = None


# `attempt(f)` prints ESCAPED where `f` returns something true and `refused` where it fails with what the system answers.
ATTEMPT = """
import ctypes, os, signal, socket, subprocess, sys, time
libc = ctypes.CDLL(None, use_errno=True)
def attempt(f, *arguments):
    try:
        result = f(*arguments)
    except (OSError, PermissionError) as error:
        print("refused", error)
    else:
        print("ESCAPED" if result else "nothing", repr(result)[:300])
def call(name, *arguments):
    ctypes.set_errno(0)
    if getattr(libc, name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return True
def write(path, text="x"):
    with open(path, "w") as f:
        f.write(text)
    return True
def read(path):
    with open(path, "rb") as f:
        return f.read(4096)
"""


def tries(name: str, code: str) -> Snippet:
    """Attempts that all are refused; the program itself ends well."""
    return Snippet(name, "ok", ATTEMPT + code, "refused")


NETWORK = [
    tries("tcp to loopback", "attempt(lambda: socket.create_connection(('127.0.0.1', @PORT@), 2))"),
    tries("tcp to the host's address", "attempt(lambda: socket.create_connection(('@ADDRESS@', @PORT@), 2))"),
    tries("tcp over IPv6", "attempt(lambda: socket.create_connection(('::1', @PORT@), 2))"),
    tries("udp out", "s = socket.socket(2, 2)\nattempt(lambda: s.sendto(b'x', ('192.0.2.1', 53)))"),
    tries("unix socket", "s = socket.socket(1)\nattempt(lambda: s.connect('@FOLDER@/socket') or 1)"),
    tries("abstract unix socket", "s = socket.socket(1)\nattempt(lambda: s.connect('\\0@ABSTRACT@') or 1)"),
    tries("vsock to the hypervisor", "attempt(lambda: socket.socket(40, 1))"),
    tries("raw socket", "attempt(lambda: socket.socket(2, 3, 1))\nattempt(lambda: socket.socket(17, 3))"),
    tries("kernel's netlink", "attempt(lambda: socket.socket(16, 3, 0))"),
    tries("name resolution", "attempt(lambda: socket.getaddrinfo('localhost.example.org', 80))"),
    Snippet("download", "error", "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:@PORT@/', timeout=2)", "URLError"),
    Snippet("other interfaces", "ok", "lines = open('/proc/net/dev').read().split('\\n')[2:-1]\n"
            "print(len(lines), lines[0][:6])", "1     lo"),
]  # fmt: skip
FILES = [
    tries("read a file of the host", "attempt(read, '@FOLDER@/canary')"),
    tries("write a file of the host", "attempt(write, '@FOLDER@/canary')\nattempt(os.remove, '@FOLDER@/canary')"),
    tries("make a file of the host", "attempt(write, '@FOLDER@/new')"),
    tries("passwords", "attempt(read, '/etc/shadow')\nattempt(read, '/etc/passwd')"),
    tries("the checkout", "attempt(os.listdir, '@CHECKOUT@')\nattempt(read, '@CHECKOUT@/README.md')"),
    tries("the artefacts", "attempt(os.listdir, '@BASE@')"),
    Snippet("the home folder", "ok", "import os, sys\nfiles = [d + '/' + f for d, _, fs in os.walk('@HOME@') for f in fs]\n"
            "print([f for f in files if not f.startswith(sys.prefix)])", "[]"),
    tries("write to the system", "attempt(write, '/usr/bin/evil')\nattempt(write, '/bin/sh')\nattempt(os.chmod, '/usr', 0o777)"),
    tries("write to the root folder", "attempt(write, '/evil')\nattempt(os.mkdir, '/proc/evil')\nattempt(write, '/dev/evil')"),
    tries("write to the library", "attempt(write, os.__file__)\nattempt(write, os.path.dirname(os.__file__) + '/evil.py')"),
    tries("the host through /proc/1", "attempt(read, '/proc/1/root@FOLDER@/canary')\nattempt(os.listdir, '/proc/1/cwd')"),
    tries("climb out", "attempt(read, '../' * 40 + '@FOLDER@/canary')\nattempt(read, '/proc/self/root/..@FOLDER@/canary')"),
    tries("link to the host", "os.symlink('@FOLDER@', 'link')\nattempt(read, 'link/canary')"),
    tries("chroot", "attempt(lambda: os.chroot('/tmp') or 1)"),
    Snippet("read-only mounts", "ok", "mounts = [line.split() for line in open('/proc/self/mountinfo')]\n"
            "print([m[4] for m in mounts if m[5].split(',')[0] == 'rw' and m[4] != '/tmp' and not m[4].startswith('/dev/')])", "[]"),
    tries("mount", "attempt(call, 'mount', b'none', b'/tmp', b'tmpfs', 0, None)\nattempt(call, 'mount', b'/', b'/tmp', None, 4096, None)"),
    tries("make the system writable", "attempt(call, 'mount', b'none', b'/usr', None, 32 | 4096, None)"),
    tries("unmount", "attempt(call, 'umount2', b'/tmp', 2)\nattempt(call, 'umount2', b'/proc', 2)"),
    tries("devices", "attempt(os.mknod, 'disk', 0o60666, os.makedev(254, 0))\nattempt(read, '/dev/vda')\nattempt(read, '/dev/mem')"),
    tries("open by handle", "attempt(call, 'open_by_handle_at', -100, ctypes.create_string_buffer(64), 0)"),
    tries("watch the system", "attempt(call, 'inotify_init')\nattempt(call, 'inotify_init1', 0)\nattempt(call, 'fanotify_init', 0x200, 0)\n"
          "import fcntl\nfor c in (fcntl.F_NOTIFY, fcntl.F_SETLEASE): attempt(lambda: fcntl.fcntl(os.open('/usr/bin', 0), c, 1) + 1)"),
    tries("lock the system", "import fcntl\nf = open('/usr/bin/env')\nattempt(lambda: fcntl.flock(f, fcntl.LOCK_EX) or 1)\n"
          "attempt(lambda: fcntl.lockf(f, fcntl.LOCK_SH) or 1)\nattempt(lambda: fcntl.flock(f, fcntl.LOCK_SH) or 1)\n"
          "attempt(lambda: fcntl.fcntl(f, 37, bytes(32)) and 1)\nattempt(call, 'lockf', f.fileno(), 1, 0)"),
    Snippet("a database of its own", "ok", "import multiprocessing as m, sqlite3\n"
            "def add(n):\n    with sqlite3.connect('a?#%.db', timeout=20) as c: c.execute('insert into t values (?)', (n,))\n"
            "sqlite3.connect('a?#%.db').execute('create table t (x)')\nps = [m.Process(target=add, args=(n,)) for n in range(4)]\n"
            "[p.start() for p in ps], [p.join() for p in ps]\n"
            "print(sqlite3.connect('file:a%3f%23%25.db?mode=ro', uri=True).execute('select sum(x) from t').fetchone(),\n"
            "      sqlite3.connect(':memory:').execute('select 2').fetchone())", "(6,) (2,)"),
    tries("a full disk", "for i in range(99): attempt(lambda: os.write(os.open(f'f{i}', 66), b'x' * 2**24) < 0)"),
    tries("one huge file", "f = open('f', 'wb')\nf.seek(2**40)\nattempt(lambda: os.write(f.fileno(), b'x'))"),
    tries("full shared memory", "for i in range(99): attempt(lambda: os.write(os.open(f'/dev/shm/f{i}', 66), b'x' * 2**24) < 0)"),
    tries("memory outside of every limit", "attempt(os.memfd_create, 'm')\nattempt(call, 'shmget', 0, 1 << 24, 0o1600)\n"
          "attempt(call, 'semget', 0, 32000, 0o1600)"),
    tries("larger socket buffers", "s = socket.socket(1)\nfor o in (7, 32): attempt(lambda: s.setsockopt(1, o, 1 << 22) or 1)"),
    Snippet("an empty folder of its own", "ok", "import os\nprint(os.getcwd(), os.listdir())\nopen('f', 'w').write('x')", "/tmp []"),
    Snippet("the environment", "ok", "import os\nprint(dict(os.environ), open('/proc/self/cmdline').read().count('@CANARY@'))", "{} 0"),
]  # fmt: skip
NEIGHBOURS = [
    tries("environment of the parent", "attempt(read, f'/proc/{os.getppid()}/environ')"),
    tries("memory of the parent", "attempt(read, f'/proc/{os.getppid()}/mem')\nattempt(read, f'/proc/{os.getppid()}/maps')"),
    tries("descriptors of the parent", "attempt(os.listdir, f'/proc/{os.getppid()}/fd')"),
    tries("take a descriptor of the parent", "attempt(call, 'syscall', 438, os.pidfd_open(os.getppid()), 0, 0)"),
    tries("trace the parent", "attempt(call, 'ptrace', 16, os.getppid(), 0, 0)"),
    tries("read the parent's memory by call", "v = (ctypes.c_size_t * 2)(id(libc), 8)  # forked: the address exists there too\n"
            "attempt(call, 'process_vm_readv', os.getppid(), (ctypes.c_size_t * 2)(ctypes.addressof(v), 8), 1, v, 1, 0)"),
    tries("signal a process of the host", "attempt(lambda: os.kill(@PID@, 9) or 1)"),
    Snippet("kill the parent", "ok", "import os, time\ntry:\n    os.kill(os.getppid(), 9)\nexcept OSError: pass\ntime.sleep(.2)\n"
            "print('on')", "on"),
    Snippet("stop the parent", "ok", "import os\ntry:\n    os.kill(os.getppid(), 19)\nexcept OSError: pass\nprint('on')", "on"),
    Snippet("kill everybody", "ok", "import os\ntry:\n    os.kill(-1, 9)\nexcept OSError: pass\nprint('on')", "on"),
    Snippet("few processes to see", "ok", "import os\nprint(sorted(n for n in os.listdir('/proc') if n.isdigit()))", "['1', '2']"),
    tries("enter other namespaces", "attempt(lambda: call('setns', os.open('/proc/1/ns/net', 0), 0))\nattempt(call, 'setns', 0, 0)"),
    tries("new namespaces", "for flag in (0x10000000, 0x20000, 0x20000000): attempt(call, 'unshare', flag)"),
    tries("new user namespace by clone", "attempt(call, 'syscall', 56, 0x10000000 | 17, 0, 0, 0, 0)"),
    tries("kernel settings", "attempt(write, '/proc/sys/kernel/core_pattern')\nattempt(write, '/proc/sysrq-trigger', 'b')"),
    tries("kernel memory", "attempt(read, '/proc/kcore')\nattempt(read, '/dev/kmsg')\nattempt(call, 'klogctl', 3, None, 0)"),
    tries("kernel interfaces", "for n in (321, 298, 425, 250): attempt(call, 'syscall', n, 0, 0, 0, 0)"),
    tries("become root", "attempt(lambda: os.setuid(0) or 1) if os.getuid() else print('refused: without any right')"),
    tries("host name and clock", "attempt(socket.sethostname, 'evil')\nattempt(lambda: time.clock_settime(0, 1.0) or 1)"),
    tries("priority", "attempt(os.setpriority, 0, 0, -10)\nattempt(os.sched_setscheduler, 0, 1, os.sched_param(1))"),
    Snippet("lift the limits", "error", "import resource\nresource.setrlimit(resource.RLIMIT_NPROC, (999, 999))", "ValueError"),
    Snippet("a set-uid program", "ok", "import subprocess\n"
            "print(subprocess.run(['su', '-c', 'id'], capture_output=True).returncode != 0)", "True"),
]  # fmt: skip
DAEMON = (
    "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        {}\n        time.sleep(1000)\n    os._exit(0)\n"
)
SURVIVORS = [
    Snippet("daemon", "ok", DAEMON.format("pass") + "print('done')", "done"),
    Snippet("daemon that ignores signals", "ok", DAEMON.format("import signal; [signal.signal(s, 1) for s in (1, 2, 3, 15)]")),
    Snippet("daemon that keeps writing", "ok|output_limit", DAEMON.format("\n        while True: print('x', flush=True); time.sleep(.01)")),
    Snippet("background process", "ok", "import subprocess\nsubprocess.Popen(['sleep', '1000'], start_new_session=True)"),
    Snippet("background shell", "ok", "import os\nos.system('nohup sleep 1000 >/dev/null 2>&1 &')"),
    Snippet("child that outlives an early exit", "error", "import os, time\nif os.fork() == 0: time.sleep(1000)\nos._exit(0)", exit_code=0),
    Snippet("child that outlives a kill", "killed", "import os, time\nif os.fork() == 0: time.sleep(1000)\n"
            "os.kill(os.getpid(), 9)", exit_code=-9),
    Snippet("child that outlives a timeout", "timeout", "import os, time\nos.fork()\ntime.sleep(1000)", seconds=0.5),
    Snippet("fork bomb", "error", "import os\nwhile True: os.fork()", "BlockingIOError"),
    Snippet("fork bomb that does not give up", "timeout", "import os\nwhile True:\n    try: os.fork()\n"
            "    except OSError: pass", seconds=1.0),
    Snippet("fork bomb of a shell", "ok|timeout", "import os\nos.system(':(){ :|:& };: 2>/dev/null')", seconds=1.0),
    Snippet("thread bomb", "timeout", "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(99,)).start()",
            "can't start new thread", seconds=3.0),
    Snippet("kill the own group", "killed", "import os\nos.killpg(0, 9)", exit_code=-9),
]  # fmt: skip
# Fills the buffers of pairs of sockets, in as many processes as there may be.
FILL = """
import os, socket, time
kept = []
def fill():
    if len(kept) == 60:
        if os.fork():
            time.sleep(99)
        kept.clear()
    kept.append(socket.socketpair(1, {}))
    for end in kept[-1]:
        end.setblocking(False)
        try:
            while True: end.send(bytes(50_000))
        except BlockingIOError: pass
"""
LIMITS = [
    Snippet("endless loop", "timeout", "print('begun')\nwhile True: pass", "begun", seconds=0.5),
    Snippet("sleep", "timeout", "import time\ntime.sleep(1000)", seconds=0.3),
    Snippet("loop that ignores signals", "timeout", "import signal\nfor s in (1, 2, 15, 24): signal.signal(s, 1)\n"
            "while 1: pass", seconds=0.5),
    Snippet("one long C call", "timeout", "import re\nre.match('(a*)*b', 'a' * 40)", seconds=0.5),
    Snippet("loop in many threads", "timeout", "import threading\nfor _ in range(8):\n"
            "    threading.Thread(target=lambda: sum(iter(int, 1))).start()", seconds=0.5),
    Snippet("wait for input that never comes", "error", "input()", "EOFError"),
    Snippet("flood", "output_limit", "while True: print('x' * 1000)", "xxx"),
    Snippet("flood of errors", "output_limit", "import sys\nwhile True: sys.stderr.write('x' * 1000)", "xxx"),
    Snippet("flood of a child", "output_limit", "import os\nos.system('yes')", "y\ny"),
    Snippet("one huge line", "output_limit", "import sys\nsys.stdout.write('x' * 50_000_000)", "xxx"),
    Snippet("huge error message", "error", "raise ValueError('x' * 1_000_000)", "ValueError"),
    Snippet("huge allocation", "memory", "bytearray(10**10)", "MemoryError"),
    Snippet("growing list", "memory", "x = []\nwhile True: x.append(bytes(2**20))"),
    Snippet("memory of many children", "memory", "import os, time\nfor _ in range(8):\n    if os.fork() == 0: break\n"
            "x = b'x' * (100 << 20)\ntime.sleep(60)"),
    Snippet("memory of sockets", "memory", FILL.format("1") + "while True: fill()"),
    Snippet("memory of closed sockets", "memory", FILL.format("2") + "import os\nwhile True:\n    r = socket.socket(1, 2)\n"
            "    r.bind(f'r{len(kept)}')\n    kept.append(r)\n    for _ in range(9):\n        s = socket.socket(1, 2)\n"
            "        s.sendto(bytes(150_000), r.getsockname())\n        s.close()"),
    Snippet("memory of files without content", "memory|error", "n = 0\nwhile True:\n    open(f'f{n}', 'w').close()\n    n += 1"),
    Snippet("mapped memory", "error", "import mmap\nm = mmap.mmap(-1, 10**10)", "OSError"),
    Snippet("bomb in a zip", "memory", "import zlib\nd = zlib.decompressobj()\nz = zlib.compress(bytes(10**8))\n"
            "x = [zlib.decompress(z) for _ in range(9)]"),
    Snippet("endless recursion", "error", "def f(): return g()\ndef g(): return f()\nf()", "RecursionError"),
    Snippet("null pointer", "killed", "import ctypes\nctypes.string_at(0)", exit_code=-11),
    Snippet("abort", "killed", "import os\nos.abort()", exit_code=-6),
    Snippet("the signal of the CPU limit", "killed", "import os, signal\nos.kill(os.getpid(), signal.SIGXCPU)", exit_code=-24),
    Snippet("alarm", "killed", "import signal, time\nsignal.alarm(1)\ntime.sleep(30)", exit_code=-14),
]  # fmt: skip
SNIPPETS = [*NETWORK, *FILES, *NEIGHBOURS, *SURVIVORS, *LIMITS]

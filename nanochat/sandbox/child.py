"""Program inside the sandbox: a supervisor, process 1 there, and its child, the runner, which executes the code.

Not imported by nanochat: `process` passes this source to a fresh interpreter (`python -I -S -c SOURCE STDIN_FD`), so it uses only
modules of the standard library that load fast. Standard input is a socket to the host (the control socket): the job comes in over
it, two lines go out, "started" and the verdict. If it closes, the host is done or gone; then the supervisor exits, and with
process 1 the kernel kills every process of the PID namespace.

A token proves that the code ran to its end. The supervisor draws it after the fork, so the runner does not inherit it, and sends
it to the runner through a pipe, for one read, into a place that Python code cannot see (`execute`). It comes back through a socket
on which the kernel names the sender, so that a forked child that reaches the end is not taken for the program.
"""

import _socket
import builtins
import ctypes
import marshal
import os
import resource
import select
import sys

TOKEN_BYTES = 32
OUT_OF_MEMORY = b"memory"
POLL_MS = 50
MESSAGES_KEPT = 1024  # more than a socket's buffer holds
MAX_FILES = 16384  # in each writable folder
CPU_SLACK = 0.5  # seconds: the kernel's two counts of CPU time differ by a few ticks
DATAGRAMS = 11  # buffers that a UNIX datagram socket may hold of closed ones (net.unix.max_dgram_qlen)
TRACEBACK_ENTRIES = 16
TRACEBACK_CHARS = 4000
CODE_NAME = "main.py"

PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_PDEATHSIG = 4, 38, 22, 24, 1
SECCOMP_MODE_FILTER, SIGKILL, SIGXCPU = 2, 9, 24
LINUX_CAPABILITY_VERSION_3 = 0x20080522
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 4096, 16384, 1 << 18
MNT_DETACH = 2
SYS_MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE = 442, -100, 0x8000  # the same number on every machine
DEVICES = ("null", "zero", "full", "random", "urandom")
DEVICE_LINKS = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"}


def main() -> None:
    """Supervisor; the forked runner returns from here to leave the interpreter as any program does."""
    control, stdin = os.dup(0), int(sys.argv[1])
    job = marshal.loads(read_message(control))
    try:
        if job["isolated"]:
            prctl(PR_SET_PDEATHSIG, SIGKILL)
        if job["mounts"] is not None:
            build_root(job["mounts"])
        if job["isolated"]:
            protect_supervisor(drop_capabilities=job["runner_uid"] is None)
    except OSError as error:
        os.write(control, f"failed {error}\n".encode())
        os._exit(1)
    token_pipe, (done, theirs) = os.pipe(), _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    done.setsockopt(_socket.SOL_SOCKET, _socket.SO_PASSCRED, 1)
    runner = os.fork()
    if runner == 0:
        os.dup2(stdin, 0)
        keep_only(token_pipe[0], theirs.fileno())
        restrict_runner(job)
        execute(job["code"].decode("utf-8", "surrogatepass"), token_pipe[0], theirs.detach(), bool(job["filter"]))
        return
    token = os.urandom(TOKEN_BYTES)
    os.write(token_pipe[1], token)
    theirs.close()
    for fd in (stdin, *token_pipe):
        os.close(fd)
    os.write(control, b"started\n")
    end = watch(runner, control, done, job)
    if end is None or end.said[-1:] == [OUT_OF_MEMORY]:
        verdict = "memory"
    elif end.status in (SIGXCPU, SIGKILL) and end.cpu_seconds > possible("RLIMIT_CPU", *job["rlimits"]["RLIMIT_CPU"])[0] - CPU_SLACK:
        verdict = "timeout"
    else:
        verdict = f"exit {os.waitstatus_to_exitcode(end.status)} {'whole' if token in end.said else 'cut'}"
    os.write(control, verdict.encode() + b"\n")
    os._exit(0)


def read_message(control: int) -> bytes:
    """Message of the host: 8 bytes of length, then as many. Exits if the host is gone."""
    data = b""
    length = None
    while length is None or len(data) < length:
        piece = os.read(control, 1 << 16)
        if not piece:
            os._exit(1)
        data += piece
        if length is None and len(data) >= 8:
            length, data = int.from_bytes(data[:8], "little"), data[8:]
    return data


class End:
    """End of the runner: its wait status, its CPU time, and its messages."""

    def __init__(self, status: int, cpu_seconds: float, said: list[bytes]) -> None:
        self.status, self.cpu_seconds, self.said = status, cpu_seconds, said


def watch(runner: int, control: int, done: _socket.socket, job: dict) -> End | None:
    """Waits for the end of the runner; returns None if all processes together exceeded the memory or the number of files."""
    ended, said = os.pidfd_open(runner), []
    poller = select.poll()
    poller.register(ended, select.POLLIN)
    poller.register(control, select.POLLIN)  # the host sends nothing after the job, so any event is a hang-up
    poller.register(done, select.POLLIN)
    done.setblocking(False)
    buffer = done.getsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF)  # the default, which the filter lets nobody change
    while True:
        for fd, _ in poller.poll(POLL_MS):
            if fd == control:
                if os.getpid() != 1:
                    os.killpg(0, SIGKILL)  # without isolation the kernel does not do it
                os._exit(1)
            if fd == done.fileno() and not listen(done, runner, said):
                poller.unregister(done)
        while (state := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            seconds = cpu_seconds(runner) if state.si_pid == runner else 0.0
            _, status = os.waitpid(state.si_pid, 0)  # orphans too: this is their new parent
            if state.si_pid == runner:
                for _ in range(MESSAGES_KEPT):
                    if not listen(done, runner, said):
                        break
                return End(status, seconds, said)
        if job["isolated"] and (memory_in_use() + socket_buffers(buffer) > job["memory_bytes"] or too_many_files()):
            return None


def listen(done: _socket.socket, runner: int, said: list[bytes]) -> bool:
    """Reads a message, and adds it to `said` if it is the runner's; False if there is none."""
    try:
        message, credentials, _, _ = done.recvmsg(2 * TOKEN_BYTES, _socket.CMSG_SPACE(12))
    except BlockingIOError:
        return False
    if not credentials:
        return False  # every other end is closed
    if int.from_bytes(credentials[0][2][:4], sys.byteorder) == runner and message:
        del said[: len(said) + 1 - MESSAGES_KEPT]
        said.append(message)
    return True


def cpu_seconds(pid: int) -> float:
    """CPU time of a process that has ended and was not waited for, without its children."""
    with open(f"/proc/{pid}/stat", "rb") as f:
        fields = f.read().rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_in_use() -> int:
    """Bytes of anonymous and shared memory, summed over the sandbox's processes except this one."""
    total = 0
    for name in os.listdir("/proc"):
        if not name.isdigit() or name == "1":
            continue
        try:
            with open(f"/proc/{name}/status", "rb") as f:
                text = f.read()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended in between
        for line in text.splitlines():
            if line.startswith((b"RssAnon:", b"RssShmem:")):
                total += int(line.split()[1]) << 10
    return total


def socket_buffers(buffer: int) -> int:
    """Bytes that sockets hold or, for UNIX ones, may hold (`buffer` each): no file says how much is in these."""
    with open("/proc/net/unix", "rb") as f:
        kinds = [fields[4] for line in f.readlines()[1:] if len(fields := line.split()) > 4]
    total = buffer * sum(DATAGRAMS if kind == b"0002" else 1 for kind in kinds)
    for name in ("tcp", "tcp6", "udp", "udp6"):
        if os.path.exists(path := f"/proc/net/{name}"):
            with open(path, "rb") as f:
                queues = [line.split()[4].split(b":") for line in f.readlines()[1:]]
            total += sum(int(sent, 16) + int(received, 16) for sent, received in queues)
    return total


def too_many_files() -> bool:
    """True if a writable folder has more files than it may; bubblewrap cannot limit them."""
    states = [os.statvfs(path) for path in ("/tmp", "/dev/shm")]
    return any(state.f_files - state.f_ffree > MAX_FILES for state in states)


def keep_only(*keep: int) -> None:
    """Closes every descriptor above 2 that is not in `keep`."""
    low = 3
    for fd in sorted(keep):
        os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, max(4096, low))


def restrict_runner(job: dict) -> None:
    """Applies the limits and drops every privilege in the runner, permanently."""
    for name, limits in job["rlimits"].items():
        resource.setrlimit(getattr(resource, name), possible(name, *limits))
    if not job["isolated"]:
        return
    os.setsid()
    if job["runner_uid"] is not None:
        os.setgroups([])
        os.setresgid(*[job["runner_uid"]] * 3)
        os.setresuid(*[job["runner_uid"]] * 3)
    if job["filter"]:
        program = ctypes.create_string_buffer(job["filter"], len(job["filter"]))
        header = ctypes.create_string_buffer(16)  # struct sock_fprog: a count, padding, a pointer
        ctypes.c_uint16.from_buffer(header, 0).value = len(job["filter"]) // 8
        ctypes.c_void_p.from_buffer(header, 8).value = ctypes.addressof(program)
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(header))


def possible(name: str, soft: int, hard: int) -> tuple[int, int]:
    """Soft and hard limit, lowered to the hard limit that this process has already."""
    most = resource.getrlimit(getattr(resource, name))[1]
    return (soft, hard) if most == resource.RLIM_INFINITY else (min(soft, most), min(hard, most))


def execute(code: str, token_pipe: int, done: int, without_locks: bool) -> None:
    """Runs `code` as `__main__`, then hands the token back. Exits with 1 after an exception, as the interpreter does."""
    module = type(sys)("__main__")
    sys.modules["__main__"] = module
    builtins.exit = builtins.quit = sys.exit  # programs expect what `site`, which is not loaded here, would add
    sys.argv[:] = [CODE_NAME]
    os.environ.clear()
    sys.stdout.reconfigure(line_buffering=True)  # what was printed before a kill is not lost
    if without_locks:
        sys.meta_path.insert(0, SqliteLocks)
    read, write, close, run = os.read, os.write, os.close, exec
    try:
        program = compile(code, CODE_NAME, "exec", dont_inherit=True)
        # While the code runs, `write` and the token are on this frame's value stack only: the stack of a running frame is visible
        # in no attribute, local variable or `gc` call, and bytes are not tracked. Both are fetched before the code starts, so
        # replacing `os.write` has no effect, and the pipe of the token is empty and closed.
        write(done, (read(token_pipe, TOKEN_BYTES), close(token_pipe), run(program, module.__dict__))[0])
    except SystemExit:
        raise
    except MemoryError as error:
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        write(done, OUT_OF_MEMORY)
        report(error, code)
    except BaseException as error:
        report(error, code)


class SqliteLocks:
    """Import hook: sqlite3 locks by files of its own, as the filter refuses the kernel's locks."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name != "sqlite3":
            return
        import _sqlite3

        connect = _sqlite3.connect

        def connect_by_dotfile(database, *options, uri=False, **named):
            place = os.fsdecode(database)
            if place in ("", ":memory:"):
                return connect(database, *options, uri=uri, **named)
            if not (uri and place.startswith("file:")):
                place = "file:" + place.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
            return connect(f"{place}{'&' if '?' in place else '?'}vfs=unix-dotfile", *options, uri=True, **named)

        _sqlite3.connect = connect_by_dotfile


def report(error: BaseException, code: str) -> None:
    """Writes the end of the traceback, without this file's frame, to descriptor 2 and exits with 1."""
    import linecache
    import traceback

    linecache.cache[CODE_NAME] = (len(code), None, code.splitlines(keepends=True), CODE_NAME)
    own = error.__traceback__.tb_next if error.__traceback__ else None
    text = "".join(traceback.format_exception(type(error), error, own, limit=-TRACEBACK_ENTRIES))
    if len(text) > TRACEBACK_CHARS:
        text = f"{text[: TRACEBACK_CHARS // 4]}\n[…]\n{text[-TRACEBACK_CHARS * 3 // 4 :]}"
    sys.stdout.flush()
    os.write(2, text.encode("utf-8", "replace"))
    sys.exit(1)


def checked(result: int, what: str) -> None:
    """Raises `OSError` if a call of the C library failed."""
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def prctl(option: int, *arguments: int) -> None:
    words = [ctypes.c_ulong(word) for word in (*arguments, 0, 0, 0, 0)[:4]]
    checked(libc().prctl(option, *words), f"prctl({option})")


def protect_supervisor(drop_capabilities: bool) -> None:
    """Protects this process and its children against tracing, reading and gaining privileges.

    The capabilities stay if the runner is to become another user, by which it loses them.
    """
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    if drop_capabilities:
        with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as f:
            last = int(f.read())
        with open("/proc/self/status", encoding="ascii", errors="replace") as f:
            effective = next(int(line.split()[1], 16) for line in f if line.startswith("CapEff:"))
        if effective:
            for capability in range(last + 1):
                prctl(PR_CAPBSET_DROP, capability)
        header = (ctypes.c_uint32 * 2)(LINUX_CAPABILITY_VERSION_3, 0)
        checked(libc().capset(header, (ctypes.c_uint32 * 6)()), "capset")
    prctl(PR_SET_DUMPABLE, 0)


def build_root(mounts: list[tuple]) -> None:
    """Replaces the root by an empty one with `mounts`, /proc and a small /dev, all read-only except the tmpfs entries.

    For the `unshare` backend; bubblewrap does this before the interpreter starts. Needs CAP_SYS_ADMIN in new namespaces.
    """
    os.umask(0o022)
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=1m")
    os.mkdir("/tmp/old")
    checked(libc().pivot_root(b"/tmp", b"/tmp/old"), "pivot_root")
    os.chdir("/")
    for kind, path, *options in mounts:
        if kind == "bind":
            bind(path)
        elif kind == "link":
            os.symlink(options[0], path)
        else:
            tmpfs(path, *options)
    for name in DEVICES:
        bind(f"/dev/{name}", read_only=False)
    for name, target in DEVICE_LINKS.items():
        os.symlink(target, f"/dev/{name}")
    os.mkdir("/proc")
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    checked(libc().umount2(b"/old", MNT_DETACH), "umount2 of the old root")
    os.rmdir("/old")
    set_read_only("/proc")
    set_read_only("/")
    os.umask(0o077)
    checked(libc().sethostname(b"sandbox", 7), "sethostname")
    os.chdir("/tmp")


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    texts = [None if text is None else text.encode() for text in (source, target, kind, data)]
    checked(libc().mount(texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3]), f"mount {target}")


def bind(path: str, read_only: bool = True) -> None:
    """Bind-mounts the old root's `path`, a folder or file, at the same place in the new root."""
    if os.path.isdir("/old" + path):
        os.makedirs(path, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o444))
    mount("/old" + path, path, None, MS_BIND | MS_REC)
    if read_only:
        set_read_only(path, AT_RECURSIVE)


def tmpfs(path: str, size: int, mode: int) -> None:
    """Mounts an empty folder of `size` bytes; read-only if the size is 0."""
    os.makedirs(path, exist_ok=True)
    mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV, f"mode={mode:o},size={size or 4096},nr_inodes={MAX_FILES}")
    if size == 0:
        set_read_only(path)


def set_read_only(path: str, flags: int = 0) -> None:
    """Adds ro,nosuid to the mount at `path`, with AT_RECURSIVE also to those below it. Needs Linux 5.12."""
    attributes = (ctypes.c_uint64 * 4)(MS_RDONLY | MS_NOSUID, 0, 0, 0)  # struct mount_attr; these two bits are mount's
    call = libc().syscall
    checked(
        call(
            ctypes.c_long(SYS_MOUNT_SETATTR), ctypes.c_int(AT_FDCWD), path.encode(), ctypes.c_uint(flags), attributes, ctypes.c_size_t(32)
        ),
        f"mount_setattr {path}",
    )


if __name__ == "__main__":
    main()

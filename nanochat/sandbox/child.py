"""Program inside the sandbox: a supervisor, process 1 there, and its child, the runner, which executes the code.

Not imported by nanochat: `process` passes this source to a fresh interpreter (`python -I -S -c SOURCE STDIN_FD`), so it uses only
modules of the standard library that load fast. Standard input is a socket to the host (the control socket): the job comes in over
it, two lines go out, "started" and the verdict. If it closes, the host is done or gone; then the supervisor exits, and with
process 1 the kernel kills every process of the PID namespace.

A token proves that the code ran to its end. The supervisor draws it after the fork, so the runner does not inherit it, and sends
it to the runner through a pipe, for one read, into a place that Python code cannot see (`execute`).
"""

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
TRACEBACK_ENTRIES = 16
TRACEBACK_CHARS = 4000
CODE_NAME = "main.py"

PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_PDEATHSIG = 4, 38, 22, 24, 1
SECCOMP_MODE_FILTER, SIGKILL = 2, 9
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
    token_pipe, done_pipe = os.pipe(), os.pipe()
    runner = os.fork()
    if runner == 0:
        os.dup2(stdin, 0)
        keep_only(token_pipe[0], done_pipe[1])
        restrict_runner(job)
        execute(job["code"].decode("utf-8", "surrogatepass"), token_pipe[0], done_pipe[1])
        return
    token = os.urandom(TOKEN_BYTES)
    os.write(token_pipe[1], token)
    for fd in (stdin, *token_pipe, done_pipe[1]):
        os.close(fd)
    os.write(control, b"started\n")
    status = watch(runner, control, job["memory_bytes"] if job["isolated"] else None)
    os.set_blocking(done_pipe[0], False)
    try:
        said = os.read(done_pipe[0], 4 * TOKEN_BYTES)
    except BlockingIOError:
        said = b""
    if status is None or said == OUT_OF_MEMORY:
        verdict = "memory"
    else:
        verdict = f"exit {os.waitstatus_to_exitcode(status)} {'whole' if said == token else 'cut'}"
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


def watch(runner: int, control: int, memory_bytes: int | None) -> int | None:
    """Wait status of the runner; None if all processes together exceeded `memory_bytes`."""
    ended = os.pidfd_open(runner)
    poller = select.poll()
    poller.register(ended, select.POLLIN)
    poller.register(control, select.POLLIN)  # the host sends nothing after the job, so any event is a hang-up
    while True:
        if any(fd == control for fd, _ in poller.poll(POLL_MS)):
            if os.getpid() != 1:
                os.killpg(0, SIGKILL)  # without isolation the kernel does not do it
            os._exit(1)
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)  # orphans too: this is their new parent
            if pid == runner:
                return status
            if pid == 0:
                break
        if memory_bytes is not None and memory_in_use() > memory_bytes:
            return None


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


def keep_only(*keep: int) -> None:
    """Closes every descriptor above 2 that is not in `keep`."""
    low = 3
    for fd in sorted(keep):
        os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, max(4096, low))


def restrict_runner(job: dict) -> None:
    """Applies the limits and drops every privilege in the runner, permanently."""
    for name, (soft, hard) in job["rlimits"].items():
        kind = getattr(resource, name)
        most = resource.getrlimit(kind)[1]
        if most != resource.RLIM_INFINITY:
            soft, hard = min(soft, most), min(hard, most)
        resource.setrlimit(kind, (soft, hard))
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


def execute(code: str, token_pipe: int, done_pipe: int) -> None:
    """Runs `code` as `__main__`, then hands the token back. Exits with 1 after an exception, as the interpreter does."""
    module = type(sys)("__main__")
    sys.modules["__main__"] = module
    builtins.exit = builtins.quit = sys.exit  # programs expect what `site`, which is not loaded here, would add
    sys.argv[:] = [CODE_NAME]
    os.environ.clear()
    sys.stdout.reconfigure(line_buffering=True)  # what was printed before a kill is not lost
    read, write, close, run = os.read, os.write, os.close, exec
    try:
        program = compile(code, CODE_NAME, "exec", dont_inherit=True)
        # While the code runs, `write` and the token are on this frame's value stack only: the stack of a running frame is visible
        # in no attribute, local variable or `gc` call, and bytes are not tracked. Both are fetched before the code starts, so
        # replacing `os.write` has no effect, and the pipe of the token is empty and closed.
        write(done_pipe, (read(token_pipe, TOKEN_BYTES), close(token_pipe), run(program, module.__dict__))[0])
    except SystemExit:
        raise
    except MemoryError as error:
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        write(done_pipe, OUT_OF_MEMORY)
        report(error, code)
    except BaseException as error:
        report(error, code)


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
    mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV, f"mode={mode:o},size={size or 4096},nr_inodes=16384")
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

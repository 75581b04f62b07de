"""Loss and return of machines: `python -m bench.elastic`.

Two agents of torchrun on this machine, started by runs/multinode.sh, stand for two machines that train a tiny base model. A process,
an agent or a whole machine gets SIGKILL; the run must go on, with the same weights bit for bit where the number of processes stays
the same, else with the same rows and nearly the same losses. The last line is JSON; `ok` and the exit code are the verdict.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from bench.tiny_run import QUIET, SHAPE, Home, make_corpus, new_home
from bench.warm_start import WarmStart
from nanochat.common import ROOT
from nanochat.flags import flag, parse, run
from nanochat.runtime.folder_lock import FILE

# Short waits for a machine that is lost, and for more of them.
SOON = "--rdzv-conf=last_call_timeout=1,keep_alive_interval=1,keep_alive_max_attempt=6"
STEPS, SAVE = 40, 5
FLAGS = ("--warmup-steps=5", f"--save-every={SAVE}", "--keep-checkpoints=-1")
LONG = 1_000_000  # more steps than are waited for
SECONDS = 240.0  # for anything to happen on a busy machine


@dataclass
class Elastic:
    """Kill processes, agents and machines of a run; it must go on."""

    rounds: int = flag(1, "repetitions of each scenario", unit="runs")


@dataclass
class Node:
    """A machine: an agent of torchrun and its processes."""

    name: str
    process: subprocess.Popen[str]
    output: Path

    @property
    def agent(self) -> int:
        """Process id of torchrun, the shell's child beside the one that writes its log."""
        return next(pid for pid in children(self.process.pid) if "torch.distributed.run" in command_of(pid))

    @property
    def workers(self) -> list[int]:
        """Process ids of the training processes."""
        return children(self.agent)

    def text(self) -> str:
        """Output so far."""
        return self.output.read_text(encoding="utf-8")

    def lose(self) -> None:
        """The machine fails: all its processes get SIGKILL at once."""
        lost = [self.process.pid, self.agent, *self.workers]
        for pid in lost:
            os.kill(pid, signal.SIGSTOP)
        for pid in lost:
            os.kill(pid, signal.SIGKILL)


@dataclass
class Cluster:
    """Machines that train in one base folder; a context manager that ends them all."""

    home: Home
    folder: Path
    nodes: str = "1:2"
    flags: tuple[str, ...] = ()
    started: list[Node] = field(default_factory=list)

    def __enter__(self) -> Cluster:
        self.checkout = prepare_checkout(self.folder / "checkout")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._meeting = self._start("--serve")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for process in (*(node.process for node in self.started), self._meeting):
            kill_tree(process.pid)
            process.wait()

    def start(self, name: str) -> Node:
        """Starts a machine, or starts it again."""
        output = self.folder / f"{name}.{len(self.started)}.out"
        options = (f"--nnodes={self.nodes}", "--nproc=1", "--interface=lo", "--address=127.0.0.1", f"--node={name}", SOON)
        training = ("base_train", *SHAPE, *QUIET, f"--dataset={self.home.corpus}", *FLAGS, *self.flags)
        self.started.append(Node(name, self._start(*options, "--", *training, output=output), output))
        return self.started[-1]

    def until(self, condition: Callable[[], bool]) -> None:
        """Waits until `condition()` holds. Raises `AssertionError` with all output if that takes too long."""
        deadline = time.monotonic() + SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError("nothing came of it:\n" + "\n".join(f"{node.name}:\n{node.text()}" for node in self.started))
            time.sleep(0.02)

    def trains(self, processes: int, after: int) -> Callable[[], bool]:
        """Whether a step later than `after` was trained by so many processes."""
        accumulated = 2 // processes  # of the two micro-batches of a step
        return lambda: any(r["step"] > after and r.get("train/grad_accum_steps") == accumulated for r in self.home.metrics())

    def last_step(self) -> int:
        """The newest step in the metrics."""
        return max((record["step"] for record in self.home.metrics()), default=0)

    def first_worker(self) -> int:
        """Process id of rank 0."""
        lock = self.home.metrics_file.with_name(FILE)
        return int(json.loads(lock.read_text())["pid"])

    def _start(self, *options: str, output: Path | None = None) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NANOCHAT_DTYPE": "fp32"}
        with (output or Path(os.devnull)).open("w") as file:
            return subprocess.Popen(
                ["bash", str(self.checkout / "runs/multinode.sh"), f"--rendezvous=127.0.0.1:{self.port}", *options],
                env={**environment, "NANOCHAT_BASE_DIR": str(self.home.base)},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                text=True,
            )


def prepare_checkout(folder: Path) -> Path:
    """The recipes in a folder whose environment is that of this process."""
    if not folder.exists():
        shutil.copytree(ROOT / "runs", folder / "runs")
        (folder / ".venv/bin").mkdir(parents=True)
        programs = {
            "mc_setup": "exit 0",
            ".venv/bin/python": f'exec {sys.executable} "$@"',
            ".venv/bin/torchrun": f'exec {sys.executable} -m torch.distributed.run "$@"',
        }
        for name, text in programs.items():
            (folder / name).write_text(f"#!/bin/sh\n{text}\n")
            (folder / name).chmod(0o755)
    return folder


def children(pid: int) -> list[int]:
    """Process ids of the children of a process, which may have ended."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def command_of(pid: int) -> str:
    """Command line of a process, words apart by blanks."""
    return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace").replace("\0", " ")


def kill_tree(pid: int) -> None:
    """Kills a process and all its descendants."""
    for child in children(pid):
        kill_tree(child)
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def process_killed(cluster: Cluster, whole: Home) -> bool:
    """A process of one of two machines is killed: True if the run ends like `whole`, which was not disturbed, bit for bit."""
    nodes = [cluster.start("first"), cluster.start("second")]
    cluster.until(lambda: cluster.home.logged(SAVE + 2))
    os.kill(nodes[1].workers[0], signal.SIGKILL)
    cluster.until(lambda: all(node.process.poll() is not None for node in nodes))
    ended = [node.process.returncode for node in nodes] == [0, 0]
    home = cluster.home
    return ended and home.figures() == whole.figures() and home.tensors(STEPS) == whole.tensors(STEPS)


def machines_lost(cluster: Cluster) -> dict[str, bool]:
    """Loses the agent of rank 0, gets its machine back, and loses the other machine: whether the run went on each time."""
    nodes, went_on, step = [cluster.start("first"), cluster.start("second")], {}, 0

    def goes_on(what: str, processes: int) -> None:
        nonlocal step
        cluster.until(cluster.trains(processes, step))
        went_on[what] = True
        step = cluster.last_step()

    goes_on("two_machines", 2)
    cluster.until(lambda: len(cluster.home.saved_steps()) > 0)
    first = next(node for node in nodes if cluster.first_worker() in node.workers)
    (other,) = [node for node in nodes if node is not first]
    orphans = first.workers
    os.kill(first.agent, signal.SIGKILL)
    cluster.until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in orphans))
    went_on["processes_end_with_their_agent"] = True
    goes_on("one_machine_after_an_agent_died", 1)
    back = cluster.start(first.name)
    goes_on("two_machines_again", 2)
    other.lose()
    goes_on("one_machine_after_a_machine_died", 1)
    cluster.start(other.name)
    goes_on("two_machines_once_more", 2)
    saved = max(cluster.home.saved_steps())
    back.process.send_signal(signal.SIGTERM)
    cluster.until(lambda: back.process.poll() is not None)
    went_on["a_machine_that_is_stopped_saves"] = max(cluster.home.saved_steps()) > saved
    goes_on("one_machine_after_the_other_was_stopped", 1)
    return went_on


def same_training(home: Home, whole: Home) -> bool:
    """Whether both have the same steps and rows as far as `home` goes, and losses that differ by the order of sums alone."""
    mine = [record for record in home.metrics() if "train/loss" in record]
    theirs = [record for record in whole.metrics() if "train/loss" in record][: len(mine)]
    return [record["step"] for record in mine] == list(range(1, len(mine) + 1)) and all(
        a["train/data_hash"] == b["train/data_hash"] and math.isclose(a["train/loss"], b["train/loss"], rel_tol=1e-3)
        for a, b in zip(mine, theirs, strict=True)
    )


def main(argv: list[str] | None = None) -> int:
    """Runs the scenarios, prints what went on and one line of JSON."""
    config = parse(Elastic, argv)
    begin = time.monotonic()
    exact = same = 0
    went_on: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as name, WarmStart() as warm:
        folder = Path(name)
        corpus = make_corpus(folder)
        whole = new_home(folder / "whole", corpus, warm)
        for process in whole.start_group(2, *FLAGS, f"--num-iterations={STEPS}"):
            assert process.wait() == 0, process.stderr
        for number in range(config.rounds):
            place = folder / str(number)
            with Cluster(new_home(place / "a", corpus, warm), place / "a", "2:2", (f"--num-iterations={STEPS}",)) as cluster:
                exact += process_killed(cluster, whole)
            print(f"round {number}: a process killed, {exact} exact so far", flush=True)
            home = new_home(place / "b", corpus, warm)
            with Cluster(home, place / "b", "1:2", (f"--num-iterations={LONG}",)) as cluster:
                for what, yes in machines_lost(cluster).items():
                    went_on[what] = went_on.get(what, 0) + yes
            undisturbed = new_home(place / "c", corpus, warm)
            processes = undisturbed.start_group(2, *FLAGS, f"--num-iterations={LONG}")
            processes[0].until(lambda home=home, undisturbed=undisturbed: undisturbed.logged(home.metrics()[-1]["step"]), SECONDS)
            same += same_training(home, undisturbed)
            for process in processes:
                process.signal(signal.SIGKILL)
            print(f"round {number}: machines lost, {went_on}, {same} with the same training", flush=True)
    result: dict[str, Any] = {
        "process_killed_exact": f"{exact}/{config.rounds}",
        **{what: f"{count}/{config.rounds}" for what, count in went_on.items()},
        "same_rows_and_losses": f"{same}/{config.rounds}",
        "seconds": round(time.monotonic() - begin, 1),
        "ok": exact == same == config.rounds and set(went_on.values()) == {config.rounds},
    }
    print(json.dumps(result))
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    run(main)

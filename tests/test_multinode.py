"""runs/multinode.sh: its dry run, its errors, and that it runs what it printed; tests/bench/test_elastic.py loses real machines."""

from __future__ import annotations

import ast
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.runner_lab import copy_checkout, dry_run, fake_gpus, run_runner, stage_commands

RECIPE = "runs/multinode.sh"
MEET = ("--rendezvous=head", "--nnodes=1:2")
STAGE = ("--", "base_train", "--depth", "20")


@pytest.fixture
def checkout(root: Path, tmp_path: Path) -> Path:
    """A checkout whose stages only leave their artefacts."""
    return copy_checkout(root, tmp_path / "checkout", environment=True)


def program(checkout: Path, name: str, text: str) -> None:
    """Replaces a program of the environment by a shell script."""
    (checkout / ".venv/bin" / name).write_text(f"#!/bin/sh\n{text}\n")


def test_dry_run(checkout: Path, base: Path, tmp_path: Path) -> None:
    program(checkout, "torchrun", "echo --shutdown-timeout")
    path = fake_gpus(tmp_path / "programs", 80_000, count=0)
    address = "2: eth0    inet 10.0.0.7/24 brd 10.0.0.255 scope global eth0"
    (tmp_path / "programs/ip").write_text(f"#!/bin/sh\necho '{address}'\n")
    (tmp_path / "programs/ip").chmod(0o755)
    options = ("--nproc=8", "--interface=eth0", "--node=a", "--rdzv-conf", "join_timeout=9")
    printed = dry_run(checkout, RECIPE, *MEET, *options, *STAGE, **path)
    assert printed == [
        f"cd {checkout}",
        f"export NANOCHAT_BASE_DIR={base} TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 "
        r"TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE=rank\ \$\{rank\}:\  NCCL_SOCKET_IFNAME=eth0 GLOO_SOCKET_IFNAME=eth0",
        ".venv/bin/torchrun --nnodes=1:2 --nproc-per-node=8 --max-restarts=10 --rdzv-backend=c10d --rdzv-endpoint=head:29400 "
        f"--rdzv-id=head-29400-run --rdzv-conf=join_timeout=3600 --local-addr=10.0.0.7 --log-dir={base}/logs/a --tee=3 "
        "--shutdown-timeout=300 --rdzv-conf=join_timeout=9 -m scripts.base_train -- --depth 20",
    ]
    assert not list(base.iterdir())
    serve = run_runner(checkout, RECIPE, "--rendezvous=head:99", "--serve", "--dry-run").stdout.splitlines()
    assert serve == [f"cd {checkout}", f"export NANOCHAT_BASE_DIR={base}", ".venv/bin/python -m nanochat.runtime.meeting_point --port 99"]


def test_what_is_run_is_what_the_dry_run_printed(checkout: Path, base: Path, tmp_path: Path) -> None:
    """Also with a torchrun that has no --shutdown-timeout, and one process for each GPU."""
    gpus = fake_gpus(tmp_path / "gpus", 80_000, count=3)
    arguments = (RECIPE, "--rendezvous", "head:1", "--nnodes", "2", *STAGE, "--num-iterations", "7", "--run", "it's")
    (printed,) = stage_commands(dry_run(checkout, *arguments, **gpus))
    assert "--nproc-per-node=3" in printed and "--nnodes=2:2" in printed and not any("shutdown" in word for word in printed)
    done = run_runner(checkout, *arguments, **gpus)
    assert (done.returncode, done.stderr) == (0, "")
    run = [ast.literal_eval(line) for line in (checkout / "commands.txt").read_text().splitlines()]
    assert run == [printed]
    log = base / "logs" / f"{platform.node()}.txt"
    assert log.read_text() == done.stdout and "scripts.base_train" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--rendezvous is missing; give the machine where all meet, as HOST or HOST:PORT"),
        (["--rendezvous=a b"], "invalid --rendezvous 'a b'; expected HOST or HOST:PORT"),
        (["--rendezvous=a:0"], "invalid --rendezvous 'a:0'; expected a port from 1 to 65535"),
        (["--rendezvous=a:99999"], "invalid --rendezvous 'a:99999'; expected a port from 1 to 65535"),
        (["--rendezvous=a:99999999999999999999"], "invalid --rendezvous 'a:99999999999999999999'; expected a port from 1 to 65535"),
        (["--rendezvous=fe80::1"], "invalid --rendezvous 'fe80::1'; expected an IPv6 address in brackets, such as [fe80::1]:29400"),
        (["--rendezvous=a"], "--nnodes is missing; give the number of machines, or MIN:MAX"),
        (["--rendezvous=a", "--nnodes=0"], "invalid --nnodes '0'; expected a number of machines, or MIN:MAX"),
        (["--rendezvous=a", "--nnodes=3:2"], "invalid --nnodes '3:2'; expected a number of machines, or MIN:MAX"),
        (["--rendezvous=a", "--nnodes=1:2:3"], "invalid --nnodes '1:2:3'; expected a number of machines, or MIN:MAX"),
        (["--rendezvous=a", "--nnodes"], "--nnodes needs a value"),
        (["--rendezvous=a", "--nnodes", "--", "base_train"], "--nnodes needs a value"),
        ([*MEET], "no stage; write it after --, such as -- base_train --depth 20"),
        ([*MEET, "base_train"], "unexpected 'base_train'; write -- before the stage and its flags"),
        (
            [*MEET, "--", "tok_train"],
            "invalid stage 'tok_train'; expected one of: base_train mid_train chat_sft chat_rl base_eval chat_eval",
        ),
        ([*MEET, "--nproc=many", *STAGE], "invalid --nproc 'many'; expected a number of processes"),
        ([*MEET, "--max-restarts=0", *STAGE], "--nnodes 1:2 needs restarts, but --max-restarts is 0"),
        ([*MEET, "--max-restarts=-1", *STAGE], "invalid --max-restarts '-1'; expected a number"),
        ([*MEET, "--shutdown-timeout=0", *STAGE], "invalid --shutdown-timeout '0'; expected seconds"),
        (
            [*MEET, "--interface=none0", *STAGE],
            "cannot find an IPv4 address of the interface 'none0'; give another --interface, or its --address",
        ),
    ],
)
def test_wrong_options(checkout: Path, base: Path, arguments: list[str], message: str) -> None:
    done = run_runner(checkout, RECIPE, *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {message}\n")
    assert not list(base.iterdir()) and not (checkout / "commands.txt").exists()


def test_a_machine_without_an_environment(checkout: Path) -> None:
    (checkout / "mc_setup").write_text("exit 1\n")
    done = run_runner(checkout, RECIPE, *MEET, *STAGE)
    assert done.returncode == 1 and done.stderr.endswith("run ./mc_setup on this machine first\n")


def test_a_batch_that_fewer_machines_cannot_divide_is_refused(checkout: Path, base: Path) -> None:
    program(checkout, "python", 'echo "$*" >>tried; case "$*" in *"--processes 6 "*) echo "error: total_batch_size" >&2; exit 1 ;; esac')
    done = run_runner(checkout, RECIPE, "--rendezvous=head", "--nnodes=2:4", "--nproc=2", *STAGE)
    expected = "error: total_batch_size\nerror: so the run cannot have 3 machines × 2 processes; change its flags, or --nnodes\n"
    assert (done.returncode, done.stderr) == (1, expected)
    tried = "-m scripts.memory_estimate --check-memory 0 --processes {} --depth 20"
    assert (checkout / "tried").read_text().splitlines() == [tried.format(8), tried.format(6)]
    assert not list(base.iterdir())


@pytest.mark.parametrize(
    ("says", "message"),
    [
        ("it failed", "base_train failed on a with exit code 3; see {log}, and run the same command again to continue"),
        ("RendezvousClosedError", "the run head-29400-run has ended at head:29400; start it anew with another --id, on all machines"),
    ],
)
def test_a_failed_run(checkout: Path, base: Path, says: str, message: str) -> None:
    program(checkout, "torchrun", f'[ "$1" = --help ] || {{ echo {says}; exit 3; }}')
    done = run_runner(checkout, RECIPE, *MEET, "--node=a", *STAGE)
    assert done.returncode == 3
    assert done.stdout.endswith(f"{says}\nerror: {message.format(log=base / 'logs/a.txt')}\n")


def test_a_signal_reaches_torchrun_once(checkout: Path, base: Path) -> None:
    """Ctrl-C goes to all processes of the terminal's group; torchrun would be interrupted in its wait for a save by a second one."""
    fake = checkout / "torchrun.py"
    fake.write_text(
        "import signal, sys, time\n"
        "got = []\n"
        "for number in (signal.SIGINT, signal.SIGTERM): signal.signal(number, lambda n, _: got.append(signal.Signals(n).name))\n"
        "print('ready', flush=True)\n"
        "while not got: time.sleep(0.02)\n"
        "time.sleep(0.3)\nprint(*got, flush=True)\nsys.exit(1)\n"
    )
    program(checkout, "torchrun", f'[ "$1" = --help ] || exec {sys.executable} {fake}')
    command = ["bash", str(checkout / RECIPE), *MEET, *STAGE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, process_group=0) as process:
        assert process.stdout is not None
        while process.stdout.readline() != "ready\n":
            pass
        os.killpg(process.pid, signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == 128 + signal.SIGINT
    assert rest == "SIGTERM\nstopped; run the same command again to continue\n"

"""`mc_setup` where Rust is missing: rustup, else the system's package. The package managers here are scripts that note their calls."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

TOOLS = ("bash", "sh", "mktemp", "rm", "sed", "cut", "sort", "head", "dirname", "cat", "chmod")
CARGO = "#!/bin/sh\necho cargo {version}\n"
# Installs cargo, if it has been told to, once `lists` is there.
MANAGER = """#!/bin/sh
echo "{name} $*" >>{calls}
case "$*" in
    update) : >{lists} ;;
    *) [ -e {lists} ] && cp {new} {bin}/cargo ;;
esac
"""


class Machine:
    """A PATH with few tools, a `curl` without a network, and the functions of `mc_setup`."""

    def __init__(self, root: Path, folder: Path, managers: tuple[str, ...], version: str = "1.75.0", user: int = 0) -> None:
        self.folder, self.bin, self.calls = folder, folder / "bin", folder / "calls"
        self.bin.mkdir()
        (folder / "rustbpe").mkdir()
        shutil.copy(root / "rustbpe" / "Cargo.toml", folder / "rustbpe")
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool) or pytest.fail(tool))
        lines = (root / "mc_setup").read_text().splitlines(keepends=True)
        assert lines[-1] == 'main "$@"\n'
        (folder / "mc_setup").write_text("".join(lines[:-1]))
        (folder / "cargo").write_text(CARGO.format(version=version))
        (folder / "cargo").chmod(0o755)
        self.calls.touch()
        self.lists = folder / "lists"
        self.lists.touch()
        self.program("curl", "#!/bin/sh\nexit 6\n")
        self.program("id", f"#!/bin/sh\necho {user}\n")
        self.program("cp", f'#!/bin/sh\nexec {shutil.which("cp")} "$@"\n')
        for name in managers:
            new, calls = folder / "cargo", self.calls
            self.program(name, MANAGER.format(name=name, calls=calls, lists=self.lists, new=new, bin=self.bin))

    def program(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def find_rust(self) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": str(self.bin), "HOME": str(self.folder)}
        command = [str(self.bin / "bash"), "-c", f". {self.folder}/mc_setup; find_rust"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=30)


@pytest.mark.parametrize(
    ("manager", "call", "package"),
    [("apt-get", "apt-get install -y cargo", "cargo"), ("dnf", "dnf install -y cargo", "cargo"), ("brew", "brew install rust", "rust")],
)
def test_the_package_of_the_system_is_taken_and_said(root: Path, tmp_path: Path, manager: str, call: str, package: str) -> None:
    machine = Machine(root, tmp_path, (manager,), user=501 if manager == "brew" else 0)
    done = machine.find_rust()
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Rust: rustup cannot be downloaded, installing the package {package} with {manager}\n" in done.stdout
    assert done.stdout.endswith("Rust: cargo 1.75.0\n") and machine.calls.read_text() == f"{call}\n"


def test_a_machine_without_lists_of_packages_gets_them(root: Path, tmp_path: Path) -> None:
    machine = Machine(root, tmp_path, ("apt-get",))
    machine.lists.unlink()
    assert machine.find_rust().returncode == 0
    assert machine.calls.read_text() == "apt-get install -y cargo\napt-get update\napt-get install -y cargo\n"


def test_another_user_needs_sudo_without_a_password(root: Path, tmp_path: Path) -> None:
    machine = Machine(root, tmp_path, ("dnf",), user=1000)
    done = machine.find_rust()
    assert done.returncode == 1
    assert done.stderr == "error: cargo is missing and rustup cannot be downloaded; run sudo dnf install cargo, then ./mc_setup again\n"
    assert machine.calls.read_text() == ""
    machine.program("sudo", f'#!/bin/sh\necho "sudo $*" >>{machine.calls}\nshift\n[ "$1" = true ] || exec "$@"\n')
    assert machine.find_rust().returncode == 0
    assert machine.calls.read_text() == "sudo -n true\nsudo -n dnf install -y cargo\ndnf install -y cargo\n"


@pytest.mark.parametrize(
    ("managers", "version", "message"),
    [
        ((), "1.75.0", "cargo is missing and rustup cannot be downloaded; install Rust, then run ./mc_setup again"),
        (("dnf",), "1.63.0", "the system's Rust is 1.63.0, but rustbpe needs 1.70; install a newer one, then run ./mc_setup again"),
        (("dnf",), "1.9.0", "the system's Rust is 1.9.0, but rustbpe needs 1.70; install a newer one, then run ./mc_setup again"),
    ],
)
def test_what_is_missing_is_one_line(root: Path, tmp_path: Path, managers: tuple[str, ...], version: str, message: str) -> None:
    done = Machine(root, tmp_path, managers, version).find_rust()
    assert (done.returncode, done.stderr) == (1, f"error: {message}\n")


def test_a_package_that_cannot_be_installed_is_one_line(root: Path, tmp_path: Path) -> None:
    machine = Machine(root, tmp_path, ("dnf",))
    machine.lists.unlink()
    done = machine.find_rust()
    assert done.returncode == 1 and done.stderr.startswith(
        "error: cargo is missing, rustup cannot be downloaded and dnf cannot install cargo;"
    )


def test_rust_that_is_there_is_left_alone(root: Path, tmp_path: Path) -> None:
    machine = Machine(root, tmp_path, ("apt-get",))
    shutil.copy(tmp_path / "cargo", machine.bin)
    done = machine.find_rust()
    assert (done.returncode, done.stdout, machine.calls.read_text()) == (0, "", "")

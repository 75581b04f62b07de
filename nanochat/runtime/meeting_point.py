"""Meeting point of torchrun's agents, on a machine that need not train: `python -m nanochat.runtime.meeting_point`.

Without it the machine that `--rdzv-endpoint` names has the store by which they meet, and the run ends with that machine.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass

import torch.distributed as dist

from nanochat import flags
from nanochat.common import UserError, first_line
from nanochat.flags import check, flag


@dataclass
class MeetingPoint:
    """Be the meeting point of a run on several machines until a signal ends it."""

    port: int = flag(29400, "TCP port to listen on")

    def __post_init__(self) -> None:
        check(self, lambda value: 1 <= value < 65536, "must be from 1 to 65535", "port")


def main(argv: list[str] | None = None) -> int:
    """Serves the store and returns 0 after SIGTERM or Ctrl-C. Raises `UserError` if the port is taken."""
    args = flags.parse(MeetingPoint, argv)
    ending = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ending)
    try:
        store = dist.TCPStore("localhost", args.port, is_master=True, wait_for_workers=False)
    except dist.DistNetworkError as error:
        raise UserError(f"cannot listen on port {args.port}: {first_line(error).rpartition('message: ')[2]}; give another port") from error
    print(f"meeting point at port {store.port}; Ctrl-C ends it", flush=True)
    signal.sigwait(ending)
    return 0


if __name__ == "__main__":
    flags.run(main)

"""The options that make one job of several processes."""

import dataclasses
import socket
import time
from typing import Annotated

from tyro.conf import arg

from asdjax.config.schema import Range
from asdjax.errors import AsdjaxError, UsageError

HEARTBEAT = 30
"""Seconds without a sign of life after which a process counts as lost."""


@dataclasses.dataclass(frozen=True)
class Hosts:
    """Work by several processes, usually one on each host."""

    distributed: bool = False
    """Work with the other processes of this job of SLURM, Open MPI, Kubernetes or a TPU pod."""
    coordinator: Annotated[str | None, arg(metavar="HOST:PORT")] = None
    """Elsewhere: address of process 0, with a free port there; the same for every process."""
    num_processes: Annotated[int | None, Range(low=1), arg(metavar="N")] = None
    """With --coordinator: number of processes."""
    process_id: Annotated[int | None, Range(low=0), arg(metavar="I")] = None
    """With --coordinator: number of this process, from 0."""
    join_timeout: Annotated[int, Range(low=1, high=86_400)] = 300
    """Seconds to wait for the other processes at the start."""

    @property
    def several(self) -> bool:
        """Whether this process works together with others."""
        return self.distributed or self.coordinator is not None

    def check(self) -> None:
        """Raise `UsageError` if the options do not fit together."""
        by_hand = (self.coordinator, self.num_processes, self.process_id)
        if by_hand.count(None) not in (0, 3):
            raise UsageError(
                "--coordinator, --num-processes, --process-id: give all three, or --distributed "
                "if SLURM, Open MPI, Kubernetes or a TPU pod starts the processes"
            )
        if self.coordinator is None or self.num_processes is None or self.process_id is None:
            return
        if self.distributed:
            raise UsageError("--distributed: cannot be used with --coordinator: omit one of them")
        host, _, port = self.coordinator.rpartition(":")
        if not (host and port.isdecimal() and 0 < int(port) < 2**16):
            raise UsageError(f"--coordinator {self.coordinator}: expected HOST:PORT")
        if self.process_id >= self.num_processes:
            raise UsageError(
                f"--process-id {self.process_id}: processes are counted from 0: expected at most "
                f"{self.num_processes - 1}"
            )

    def wait_for_coordinator(self) -> None:
        """Wait until process 0 listens at its address.

        Raises:
            AsdjaxError: nothing listens there within `join_timeout` seconds.
        """
        if self.coordinator is None or not self.process_id:
            return
        host, _, port = self.coordinator.rpartition(":")
        end = time.monotonic() + self.join_timeout
        while True:
            left = max(end - time.monotonic(), 1)
            try:
                socket.create_connection((host.strip("[]"), int(port)), timeout=left).close()
                return
            except OSError as error:
                if time.monotonic() > end:
                    reason = f"no answer for {self.join_timeout} s ({error.strerror or error})"
                    raise AsdjaxError(
                        f"--coordinator {self.coordinator}: {reason}: start process 0 there, or "
                        "correct the address"
                    ) from error
            time.sleep(0.2)

"""Which process this is, and where the first one listens: from the config or from the cluster."""

import dataclasses
import os
import socket
import warnings

from flsl_jax.config import ParallelConfig
from flsl_jax.errors import UserError, first_line


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """`coordinator`: host:port of process 0; `count` of processes; `number` of this one, from 0."""

    coordinator: str
    count: int
    number: int

    @property
    def port(self) -> int:
        """That of process 0."""
        return int(self.coordinator.rpartition(":")[2])

    @property
    def host(self) -> str:
        """That of process 0; an IPv6 address without its brackets."""
        return self.coordinator.rpartition(":")[0].strip("[]")

    @property
    def bind(self) -> tuple[str | None, int]:
        """Address and port where process 0 listens: at all of its addresses, unless JAX_COORDINATOR_BIND_ADDRESS names one."""
        host, _, port = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS", "").rpartition(":")
        return host.strip("[]") or None, int(port) if port.isdigit() else self.port


def find_place(config: ParallelConfig) -> Place:
    """Takes from the config what it gives, and the rest from the cluster (SLURM, Open MPI, TPU pod) as JAX detects it.

    Raises:
        UserError: something is neither given nor detected, or is no address or number of a process.
    """
    coordinator = config.coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    count = None if config.num_processes < 0 else config.num_processes
    number = None if config.process_id < 0 else config.process_id
    if None in (coordinator, count, number):
        coordinator, count, number = _detect(coordinator, count, number, timeout=config.timeout_seconds)
    found = {"coordinator": coordinator, "num_processes": count, "process_id": number}
    missing = [f"config.parallel.{name}" for name, value in found.items() if value is None]
    if coordinator is None or count is None or number is None:
        raise UserError(
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not given, and no cluster was detected on "
            f"{socket.gethostname()} (SLURM, Open MPI, TPU pod) that says it; give all three, or leave out "
            "config.parallel.distributed"
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise UserError(f"config.parallel.coordinator is {coordinator!r}; expected HOST:PORT, such as node0:12345")
    if not 0 <= number < count:
        raise UserError(
            f"config.parallel.process_id = {number}, but with config.parallel.num_processes = {count} they are numbered "
            f"from 0 to {count - 1}"
        )
    return Place(coordinator=coordinator, count=count, number=number)


def _detect(
    coordinator: str | None, count: int | None, number: int | None, *, timeout: int
) -> tuple[str | None, int | None, int | None]:
    try:
        from jax._src.clusters import ClusterEnv  # the same detection as in jax.distributed.initialize

        with warnings.catch_warnings():
            # It wants a package that no cluster needs for this.
            warnings.filterwarnings("ignore", message="(?s).*Kubernetes")
            found = ClusterEnv.auto_detect_unset_distributed_params(coordinator, count, number, None, None, timeout)
    except Exception as error:  # what a cluster's variables or its services make of it
        raise UserError(
            f"config.parallel: the cluster could not be detected ({first_line(error)}); give config.parallel.coordinator, "
            "num_processes and process_id"
        ) from error
    return found[:3]

"""Rendezvous of a run's processes, and the network interface over which they communicate."""

from __future__ import annotations

import os
import socket
from datetime import timedelta

import psutil
import torch.distributed as dist

from pretrain.device import communication_backend

INTERFACE_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
"""Environment variables with the network interface. By default gloo uses the address that the host's own name resolves
to, which on many clusters is that of another network or the loopback, and NCCL the first interface it finds."""

NCCL_DEFAULTS = {
    # A failed or timed-out collective ends the process instead of blocking it.
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "3",
    # Records in memory, at next to no cost, which collective each rank was in when one timed out.
    "TORCH_NCCL_TRACE_BUFFER_SIZE": "2000",
    "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",
    "NCCL_DEBUG": "WARN",
}
"""Defaults of NCCL's environment variables."""


def prepare_network(master: str) -> None:
    """Set the environment variables of gloo and NCCL that are not set already.

    Args:
        master: address or name of the node of rank 0. The interface that leads to it is used: on a single machine the
            loopback, which cannot be reached from outside.
    """
    address = local_address(master)
    interface = interface_of(address)
    if interface is not None and not hides_behind_loopback(master, address):
        for name in INTERFACE_VARIABLES:
            # NCCL matches prefixes: "eth1" alone would also match eth10.
            os.environ.setdefault(name, f"={interface}" if name.startswith("NCCL") else interface)
    if communication_backend() == "nccl":
        for name, value in NCCL_DEFAULTS.items():
            os.environ.setdefault(name, value)


def join(timeout: timedelta) -> None:
    """Create the process group that RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT describe.

    The store through which the processes meet accepts anybody who can reach its port, and torch binds it to every
    interface. Here rank 0 binds it to the master's address only. Under torchrun, torchrun's own store is used.
    """
    master, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    prepare_network(master)
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        dist.init_process_group(communication_backend(), timeout=timeout)
        return
    listener = listen(master, port) if rank == 0 else None
    store = dist.TCPStore(  # type: ignore[attr-defined]
        master,
        port,
        world_size,
        is_master=rank == 0,
        timeout=timeout,
        master_listen_fd=None if listener is None else listener.detach(),  # the store closes it
    )
    dist.init_process_group(
        communication_backend(),
        store=dist.PrefixStore("default_pg", store),  # type: ignore[attr-defined]
        rank=rank,
        world_size=world_size,
        timeout=timeout,
    )


def listen(address: str, port: int) -> socket.socket:
    """A listening socket on one address; on all addresses where the name resolves to the loopback on this machine only.

    Raises:
        ValueError: the port is in use, or the address is not one of this machine.
    """
    family, kind, protocol, _, place = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
    if hides_behind_loopback(address, str(place[0])):
        family, place = socket.AF_INET, ("", port)
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(place)
    except OSError as error:
        listener.close()
        raise ValueError(
            f"MASTER_ADDR {address}, MASTER_PORT {port}: rank 0 cannot listen there: {error.strerror}; set another "
            "port, or the address of the node that rank 0 runs on"
        ) from None
    listener.listen(2048)  # all ranks may connect at once
    return listener


def hides_behind_loopback(name: str, address: str) -> bool:
    """Whether this machine resolves its own name to the loopback, as Debian does, while other machines resolve it to
    the real address."""
    return address.startswith("127.") and not (name == "localhost" or name.startswith("127."))


def local_address(master: str) -> str:
    """This machine's address on the network that leads to `master`; determined without sending anything."""
    family, kind, protocol, _, place = socket.getaddrinfo(master, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        try:
            probe.connect(place)
        except OSError:  # no route: gloo will report it
            return str(place[0])
        return str(probe.getsockname()[0])


def interface_of(address: str) -> str | None:
    """Name of the interface with this address; None when there is none."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(entry.address.partition("%")[0] == address for entry in addresses):
            return name
    if address.startswith("127."):  # all of 127.0.0.0/8 belongs to the loopback
        return interface_of("127.0.0.1") if address != "127.0.0.1" else None
    return None


def node_name() -> str:
    """Name of this node in the scheduler, by which it can be excluded; without a scheduler the host's name."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()

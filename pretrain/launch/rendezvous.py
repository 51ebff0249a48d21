"""How the processes of a run find each other, and over which network interface they talk."""

from __future__ import annotations

import os
import socket
from datetime import timedelta

import psutil
import torch.distributed as dist

from pretrain.device import communication_backend

INTERFACE_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
"""Left to themselves, gloo takes the address that the host's own name resolves to, which on many clusters is that of
another network or the loopback, and NCCL the first interface it finds."""

NCCL_DEFAULTS = {
    # A failed or timed-out collective ends the process instead of leaving it to wait.
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "3",
    # Which collective each rank was in when one timed out, kept in memory at next to no cost.
    "TORCH_NCCL_TRACE_BUFFER_SIZE": "2000",
    "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",
    "NCCL_DEBUG": "WARN",
}


def prepare_network(master: str) -> None:
    """Set what gloo and NCCL read from the environment, where it is not set already.

    Args:
        master: address or name of the node of rank 0. The interface that leads to it is the one that is used: on a
            single machine that is the loopback, which nobody outside can reach.
    """
    address = local_address(master)
    interface = interface_of(address)
    if interface is not None and not hides_behind_loopback(master, address):
        for name in INTERFACE_VARIABLES:
            # NCCL takes prefixes: "eth1" alone would also mean eth10.
            os.environ.setdefault(name, f"={interface}" if name.startswith("NCCL") else interface)
    if communication_backend() == "nccl":
        for name, value in NCCL_DEFAULTS.items():
            os.environ.setdefault(name, value)


def join(timeout: timedelta) -> None:
    """Make the process group that RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT describe.

    The store through which the processes meet is open to anybody who reaches its port, and torch binds it to every
    interface; here rank 0 binds it to the master's address alone. torchrun brings a store of its own, which is used.
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
    """A listening socket on one address; on all, where the address is a name that this machine keeps to itself.

    Raises:
        ValueError: the port is taken, or the address is none of this machine.
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
            f"MASTER_ADDR {address}, MASTER_PORT {port}: rank 0 cannot listen there: {error.strerror}; give another "
            "port, or the address of the node that rank 0 runs on"
        ) from None
    listener.listen(2048)  # all ranks may knock at once
    return listener


def hides_behind_loopback(name: str, address: str) -> bool:
    """Whether this machine resolves its own name to the loopback, as Debian's do, while others reach it by that name
    under its real address."""
    return address.startswith("127.") and not (name == "localhost" or name.startswith("127."))


def local_address(master: str) -> str:
    """This machine's address on the network that leads to `master`. Nothing is sent."""
    family, kind, protocol, _, place = socket.getaddrinfo(master, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        try:
            probe.connect(place)
        except OSError:  # no route: gloo will say so
            return str(place[0])
        return str(probe.getsockname()[0])


def interface_of(address: str) -> str | None:
    """Name of the interface that has this address; None when there is none."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(entry.address.partition("%")[0] == address for entry in addresses):
            return name
    if address.startswith("127."):  # all of 127.0.0.0/8 is the loopback's
        return interface_of("127.0.0.1") if address != "127.0.0.1" else None
    return None


def node_name() -> str:
    """What the scheduler calls this node, so that it can be told to leave it out; else the host's name."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()

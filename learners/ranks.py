"""How the ranks of one learner find each other: a store on rank 0's host, on a port that the system chose.

The store is made from a socket of ours, since torch's own would listen on every interface of the host.
"""

from __future__ import annotations

import os
import socket
import sys
from datetime import timedelta

import psutil
from torch.distributed import Store, TCPStore

_PATIENCE = timedelta(minutes=10)
"""How long a rank waits for the others: loading a model from a cold disk takes minutes."""


def listen(host: str) -> tuple[Store, str]:
    """Rank 0's end of the store, and its HOST:PORT for the others. Raises OSError where `host` is not this machine."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.bind((host, 0))
        sock.listen(64)
        port = sock.getsockname()[1]
        store = TCPStore(
            host, port, is_master=True, wait_for_workers=False, timeout=_PATIENCE, master_listen_fd=sock.detach()
        )
    _use_interface(host)
    return store, f"{host}:{port}"


def meet(address: str) -> Store:
    """Another rank's end, of the HOST:PORT that `listen` gave."""
    host, _, port = address.rpartition(":")
    store = TCPStore(host, int(port), is_master=False, wait_for_workers=False, timeout=_PATIENCE)
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, int(port)))  # sends nothing; tells which of our addresses reaches that host
        _use_interface(probe.getsockname()[0])
    return store


def _use_interface(address: str) -> None:
    """Let gloo talk over the interface that has this address: its own guess goes by the name of the host."""
    if sys.platform != "linux":
        return
    for name, entries in psutil.net_if_addrs().items():
        if any(entry.address.partition("%")[0] == address for entry in entries):
            os.environ["GLOO_SOCKET_IFNAME"] = name

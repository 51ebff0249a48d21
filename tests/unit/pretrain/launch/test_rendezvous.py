"""Addresses, interfaces and ports."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest

from pretrain.launch.rendezvous import INTERFACE_VARIABLES, interface_of, listen, local_address, prepare_network


def test_the_store_listens_on_the_masters_address_alone() -> None:
    with listen("127.0.0.1", 0) as listener:
        address, port = listener.getsockname()
        assert address == "127.0.0.1"
        with socket.create_connection(("127.0.0.1", port)):
            pass
        # Another address of this same machine does not reach it; it would, bound to every interface.
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port))


def test_a_name_that_means_the_loopback_only_here_is_not_taken_at_its_word(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve = socket.getaddrinfo

    def as_debian_does(host: str, *arguments: Any, **settings: Any) -> Any:
        return resolve("127.0.1.1" if host == "node-1" else host, *arguments, **settings)

    monkeypatch.setattr(socket, "getaddrinfo", as_debian_does)
    with listen("node-1", 0) as listener:
        assert listener.getsockname()[0] == "0.0.0.0"
    for name in INTERFACE_VARIABLES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    prepare_network("node-1")
    assert not set(INTERFACE_VARIABLES) & set(os.environ)


def test_a_taken_port_is_named() -> None:
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ValueError, match=f"MASTER_PORT {port}: rank 0 cannot listen there: Address already in use"):
            listen("127.0.0.1", port)


def test_on_one_machine_the_loopback_is_used() -> None:
    loopback = interface_of("127.0.0.1")
    assert loopback is not None
    assert local_address("127.0.0.1") == "127.0.0.1"
    assert interface_of("127.0.0.9") == loopback
    assert interface_of("203.0.113.7") is None  # documentation's, RFC 5737: nobody's


def test_what_is_set_already_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    gloo, nccl = INTERFACE_VARIABLES
    monkeypatch.setenv(gloo, "ib0")
    monkeypatch.setenv(nccl, "")
    monkeypatch.delenv(nccl)
    prepare_network("127.0.0.1")
    assert os.environ[gloo] == "ib0"
    assert os.environ[nccl] == f"={interface_of('127.0.0.1')}"

"""Signals and the stop file, as one process sees them; what all processes do with them is in tests/distributed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist

from pretrain.checkpoint.layout import CheckpointError
from pretrain.device import start_alone
from pretrain.launch.exit_codes import ExitCode
from pretrain.launch.stopping import STOP_FILE, Stop, StopRequests, is_lost_peer


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    if not dist.is_initialized():  # by the test of another file
        start_alone()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_asks_for_another_turn(tmp_path: Path, number: signal.Signals) -> None:
    with StopRequests(tmp_path, 0) as stops:
        assert stops.agreed() is None
        os.kill(os.getpid(), number)
        stop = stops.agreed()
    assert stop is not None and stop.exit_code == ExitCode.REQUEUE and number.name in stop.reason


def test_a_closed_terminal_ends_the_run_and_nohup_keeps_it(tmp_path: Path) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may be run by nohup
    with StopRequests(tmp_path, 0) as stops:
        os.kill(os.getpid(), signal.SIGHUP)
        assert stops.agreed() == Stop("the terminal was closed", ExitCode.ENDED)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopRequests(tmp_path, 0) as stops:
        os.kill(os.getpid(), signal.SIGHUP)
        assert stops.agreed() is None


def test_handlers_are_given_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopRequests(tmp_path, 0):
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) == before


def test_on_the_way_out_a_launcher_that_ends_the_others_changes_no_exit_code(tmp_path: Path) -> None:
    with StopRequests(tmp_path, 0) as stops:
        stops.request("memory")
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(ZeroDivisionError), StopRequests(tmp_path, 0):
        1 / 0  # noqa: B018
    os.kill(os.getpid(), signal.SIGTERM)


def test_ctrl_c_says_so_once_and_outweighs_what_the_launcher_sends_after_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with StopRequests(tmp_path, 0) as stops:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert stops.agreed() == Stop("Ctrl-C", ExitCode.ENDED)
    assert capfd.readouterr().err.count("finishing this step, then saving") == 1


def test_ctrl_c_again_after_a_while_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with StopRequests(tmp_path, 0):
        os.kill(os.getpid(), signal.SIGINT)
        monkeypatch.setattr("time.monotonic", lambda: 1e12)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(("word", "code"), [("", ExitCode.REQUEUE), ("end\n", ExitCode.ENDED)])
def test_the_stop_file_is_heeded_once(tmp_path: Path, word: str, code: ExitCode) -> None:
    stops = StopRequests(tmp_path, 0)
    (tmp_path / STOP_FILE).write_text(word)
    stop = stops.agreed()
    assert stop is not None and stop.exit_code == code
    assert not (tmp_path / STOP_FILE).exists()


def test_other_ranks_leave_the_file_to_the_first(tmp_path: Path) -> None:
    (tmp_path / STOP_FILE).touch()
    assert StopRequests(tmp_path, 1).agreed() is None


def test_a_lost_peer_is_told_from_a_fault() -> None:
    assert is_lost_peer(RuntimeError("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:9"))
    assert not is_lost_peer(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_lost_peer(ValueError("Connection closed by peer"))
    assert is_lost_peer(CheckpointError("step-00000004: not written: rank 1 has lost another one: Broken pipe"))

"""Which GPU a process uses, and its arguments to `torch.distributed`."""

from __future__ import annotations

import subprocess
import sys
import threading
from datetime import timedelta

import psutil
import pytest
import torch
import torch.distributed as dist

from pretrain.device import group_alone, has_busy_gpu, local_device, use_timeout
from pretrain.launch.node_check import NodeError, check_device
from tests.distributed.cases import tiny_config


def test_a_model_more_takes_no_thread_more() -> None:
    first = group_alone()
    before = psutil.Process().num_threads()
    assert all(group_alone() is first for _ in range(20))
    assert first.size() == 1
    assert psutil.Process().num_threads() == before


def pretend_gpus(monkeypatch: pytest.MonkeyPatch, count: int, local_rank: int, visible: str | None) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setenv("LOCAL_RANK", str(local_rank))
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)


@pytest.mark.parametrize(
    ("count", "local_rank", "visible", "index"),
    [(8, 3, None, 3), (8, 3, "0,1,2,3,4,5,6,7", 3), (1, 3, "0", 0), (1, 3, "GPU-0e1f", 0), (1, 0, None, 0)],
)
def test_each_process_has_its_own_gpu(
    monkeypatch: pytest.MonkeyPatch, count: int, local_rank: int, visible: str | None, index: int
) -> None:
    """With `--gpus-per-task=1` a task sees one GPU, which is number 0 whatever the task's own number."""
    pretend_gpus(monkeypatch, count, local_rank, visible)
    assert local_device() == torch.device("cuda", index)


def test_a_node_that_has_lost_its_gpus_is_still_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """One GPU is left of eight: nobody has said that this process should see one only."""
    pretend_gpus(monkeypatch, 1, 3, None)
    with pytest.raises(NodeError, match="process 3 of the node finds only 1 GPUs"):
        check_device()


AT_THE_FIRST_CUDA_CALL = """
import torch
import torch._dynamo  # which `deterministic` imports; it does not bear one function under three names
from pretrain.config import TrainConfig
from pretrain import train

def first_call(*_, **__):
    matmul = torch.backends.cuda.matmul
    print(matmul.allow_bf16_reduced_precision_reduction, matmul.allow_fp16_reduced_precision_reduction)
    print(torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled())
    print(torch.backends.cuda.cudnn_sdp_enabled())
    raise SystemExit

torch.cuda.is_available = torch.cuda.device_count = torch.cuda.set_device = first_call
train.train(TrainConfig.model_validate(%r))
"""


@pytest.mark.parametrize(
    ("deterministic", "algorithms"), [(False, "False False\nTrue\n"), (True, "True False\nFalse\n")]
)
def test_sums_are_in_fp32_and_in_order_from_the_first_cuda_call_on(deterministic: bool, algorithms: str) -> None:
    """In a process of its own: the flags are those of the whole process."""
    program = AT_THE_FIRST_CUDA_CALL % tiny_config(deterministic=deterministic).model_dump(mode="json")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n" + algorithms


@pytest.mark.parametrize("backend", ["nccl", "gloo"])
def test_groups_without_a_timeout_of_their_own_take_ours(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    """Real groups, DeepSpeed's among them, are in tests/distributed/test_processes.py; NCCL's need GPUs."""
    for name in ("default_pg_timeout", "default_pg_nccl_timeout"):
        monkeypatch.setattr(dist.distributed_c10d, name, timedelta(minutes=10))
    use_timeout(timedelta(seconds=2100))
    assert dist.distributed_c10d._get_default_timeout(dist.Backend(backend)) == timedelta(seconds=2100)


class Stream:
    def __init__(self, is_done: bool) -> None:
        self._is_done = is_done

    def query(self) -> bool:
        return self._is_done


@pytest.mark.parametrize(("is_done", "busy"), [(False, True), (True, False)])
def test_the_gpu_is_asked_whether_it_is_busy(monkeypatch: pytest.MonkeyPatch, is_done: bool, busy: bool) -> None:
    assert has_busy_gpu(60) is False  # no GPU
    pretend_gpus(monkeypatch, 8, 3, None)
    used = []
    monkeypatch.setattr(torch.cuda, "set_device", used.append)
    monkeypatch.setattr(torch.cuda, "default_stream", lambda device: used.append(device) or Stream(is_done))
    assert has_busy_gpu(60) is busy
    assert used == [torch.device("cuda", 3)] * 2


def test_a_driver_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpus(monkeypatch, 1, 0, None)
    answer = threading.Event()

    def no_answer(_: torch.device) -> None:
        answer.wait()
        raise RuntimeError("the driver was reset")

    monkeypatch.setattr(torch.cuda, "set_device", no_answer)
    assert has_busy_gpu(0.01) is None
    answer.set()

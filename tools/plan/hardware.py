"""Speeds of accelerators and of what connects them.

Peak figures are those of the makers' data sheets. Of the shares of them that programs reach, one is fitted for each
generation: `products`, 0.70 for the A100 on the runs of Korthikanti et al. 2022 (arXiv:2205.05198, table 5), and 0.57
for the H100 on Megatron-LM's table of 2024. (An H100 is further from its data sheet because it lowers its clock under
load.) Runs that were not used for it check it, see `tools/plan/published.py`. `attention` is what
FlashAttention-2 reaches (Dao 2023, arXiv:2307.08691, section 4.1): half of an A100's peak and more, 0.35 to 0.4 of an
H100's. The others are round numbers that copies and collectives of large arrays are known to reach; nothing was fitted
to choose them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Hardware:
    """One device and its links, in bytes, FLOPs and seconds.

    Attributes:
        name: what the user calls it.
        peak_flops: dense bf16 FLOP/s by the data sheet.
        memory_bytes: memory of the device.
        memory_rate: bytes/s of its memory.
        link_rate: bytes/s in one direction between two devices of a node.
        network_rate: bytes/s in one direction between nodes, for each device.
        devices_per_node: devices joined by links.
        watts: board power by the data sheet.
        products: share of the peak that large matrix products reach.
        attention: share of the peak that fused attention reaches, where only the visible half of the scores counts.
        memory: share of the memory's rate that kernels reach which only move data.
        link: share of the link's rate that collectives reach.
        network: share of the network's rate that collectives reach.
        launch: seconds that a kernel takes however little it does.
        link_latency: seconds of a collective inside a node however little it moves.
        network_latency: seconds of one hop between nodes.
    """

    name: str
    peak_flops: float
    memory_bytes: float
    memory_rate: float
    link_rate: float
    network_rate: float
    devices_per_node: int
    watts: float
    products: float
    attention: float
    memory: float = 0.8
    link: float = 0.75
    network: float = 0.75
    launch: float = 8e-6
    link_latency: float = 15e-6
    network_latency: float = 10e-6

    @property
    def product_rate(self) -> float:
        """FLOP/s of large matrix products."""
        return self.peak_flops * self.products

    @property
    def attention_rate(self) -> float:
        """FLOP/s of fused attention."""
        return self.peak_flops * self.attention

    @property
    def inside_rate(self) -> float:
        """Bytes/s of collectives inside a node."""
        return self.link_rate * self.link

    @property
    def between_rate(self) -> float:
        """Bytes/s of collectives between nodes, for each device."""
        return self.network_rate * self.network

    @property
    def moving_rate(self) -> float:
        """Bytes/s of kernels that only move data."""
        return self.memory_rate * self.memory


_GIB = 2**30

A100 = Hardware(
    "a100",
    peak_flops=312e12,
    memory_bytes=80 * _GIB,
    memory_rate=2.039e12,
    link_rate=300e9,
    network_rate=25e9,
    devices_per_node=8,
    watts=400,
    products=0.70,
    attention=0.5,
)
"""A100 SXM of 80 GB, in a DGX A100: 600 GB/s of NVLink in both directions, eight ports of 200 Gbit/s for data.
Source: NVIDIA, "A100 Tensor Core GPU" and "DGX A100" data sheets."""

H100 = Hardware(
    "h100",
    peak_flops=989e12,
    memory_bytes=80 * _GIB,
    memory_rate=3.35e12,
    link_rate=450e9,
    network_rate=50e9,
    devices_per_node=8,
    watts=700,
    products=0.57,
    attention=0.4,
)
"""H100 SXM, in a DGX H100: 900 GB/s of NVLink in both directions, eight ports of 400 Gbit/s. Source: NVIDIA, "H100
Tensor Core GPU" and "DGX H100" data sheets."""

HARDWARE = {
    device.name: device
    for device in (
        A100,
        replace(A100, name="a100-40gb", memory_bytes=40 * _GIB, memory_rate=1.555e12),
        replace(A100, name="a800", link_rate=200e9),
        H100,
        replace(H100, name="h800", link_rate=200e9),
        replace(H100, name="h200", memory_bytes=141e9, memory_rate=4.8e12),
    )
}
"""Devices by name. A800 and H800 have NVLink of 400 GB/s in both directions; the H200 has another memory, 141 GB at
4.8 TB/s. Source: NVIDIA's data sheets."""

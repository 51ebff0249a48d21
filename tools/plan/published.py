"""Published training runs beside what the planner predicts for them.

Settings that a source does not give are marked in `assumed`. Where a source gives FLOP/s, the time of a step follows
from the operations that this source counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import median

from pretrain.config import ModelConfig
from tools.plan.cost import Layout, Software, StepTime, block_weights, step_time
from tools.plan.hardware import HARDWARE, Hardware

_A100, _A800, _H100 = HARDWARE["a100"], HARDWARE["a800"], HARDWARE["h100"]

MEGATRON_2021 = Software(
    fused_attention=False, dropout=True, logit_bytes=52, gradient_bytes=2, shards_optimizer=False, even_stages=True
)
"""Megatron-LM in fp16 with dropout: scores in memory, logits in fp32 through separate kernels (13 passes of 4 bytes),
gradients summed at the end, whole optimizer on each rank."""
BIGSCIENCE = replace(MEGATRON_2021, dropout=False, gradient_bytes=4, shards_optimizer=True)
"""BLOOM's Megatron-DeepSpeed in bf16: ZeRO-1, gradients in fp32 (Le Scao et al. 2022, arXiv:2211.05100)."""
MEGATRON_2024 = Software(
    logit_bytes=52,
    gradient_bytes=2,
    overlaps_data=True,
    overlaps_pipeline=True,
    hidden_tensor=0.5,
    even_stages=True,
)
"""Megatron Core 0.8 with all of its overlap switched on. Half of the tensor axis' traffic is taken as hidden."""
OVERLAPPED = Software(overlaps_data=True, even_stages=True)
"""Flash attention, and a data axis whose traffic is hidden as far as there is time; nothing else is known."""


REASON_HALF = (
    "the source does not say whether its FLOP/s count scores that the causal mask hides, half of the attention, which "
    "makes more than half of all operations here; without them the step takes 10.9 s, and the error is +9 %"
)


@dataclass(frozen=True)
class PublishedRun:
    """A run whose speed is known.

    Attributes:
        seconds: of a step.
        source: where the figures stand.
        fitted: the run was used to choose `Hardware.products`.
        assumed: settings that the source does not give.
        reason: why the prediction misses by more than a fifth, where it does.
    """

    name: str
    source: str
    model: ModelConfig
    sequence_length: int
    layout: Layout
    hardware: Hardware
    software: Software
    seconds: float
    fitted: bool = False
    assumed: str = ""
    reason: str = ""
    stages: tuple[int, ...] | None = None

    def predicted(self) -> StepTime:
        return step_time(
            self.model, self.sequence_length, self.layout, self.hardware, self.software, stages=self.stages
        )

    @property
    def error(self) -> float:
        """Relative error of the predicted seconds."""
        return self.predicted().total / self.seconds - 1


def errors() -> tuple[float, float]:
    """Median and largest absolute error over all runs without a stated reason."""
    missed = [abs(run.error) for run in published_runs()]
    told = [abs(run.error) for run in published_runs() if not run.reason]
    return median(missed), max(told)


def published_runs() -> Iterator[PublishedRun]:
    """All runs, by source."""
    yield from _narayanan()
    yield from _korthikanti()
    yield from _megatron_turing()
    yield from _megatron_core()
    yield from _models()


def _gpt(hidden: int, layers: int, heads: int, vocabulary: int = 51200, positions: int = 2048) -> ModelConfig:
    """A GPT with a tied head; those of 2024, with 4096 positions, have one of their own, as their sizes show."""
    return ModelConfig.model_validate(
        {
            "family": "gpt3",
            "vocabulary_size": vocabulary,
            "hidden_size": hidden,
            "layers": layers,
            "attention_heads": heads,
            "key_value_heads": heads,
            "feed_forward_size": 4 * hidden,
            "maximum_positions": positions,
            "tied_embedding": positions == 2048,
        }
    )


def _llama(hidden: int, layers: int, heads: int, groups: int, inner: int, vocabulary: int, length: int) -> ModelConfig:
    return ModelConfig.model_validate(
        {
            "family": "llama",
            "vocabulary_size": vocabulary,
            "hidden_size": hidden,
            "layers": layers,
            "attention_heads": heads,
            "key_value_heads": groups,
            "feed_forward_size": inner,
            "maximum_positions": length,
        }
    )


def _counted(model: ModelConfig, length: int, samples: int, passes: int) -> float:
    """FLOPs of a step as the sources count them: blocks and attention in full, `passes` times forward (three, or four
    with recomputation), the head three times (Narayanan et al. 2021, equation 3)."""
    block = 2 * block_weights(model) + 4 * length * model.attention_heads * model.head_size
    return samples * length * (passes * block * model.layers + 6 * model.vocabulary_size * model.hidden_size)


def _narayanan() -> Iterator[PublishedRun]:
    """Rows: billions of parameters, hidden size, layers, heads, tensor, pipeline, GPUs, batch, micro-batch, parts of
    each stage, TFLOP/s a GPU. Micro-batches and parts from the script of the table in Megatron-LM's repository,
    `examples/academic_paper_scripts/sc21/run_table_1.sh`."""
    rows = (
        ("1.7B", 2304, 24, 24, 1, 1, 32, 512, 16, 1, 137),
        ("3.6B", 3072, 30, 32, 2, 1, 64, 512, 16, 1, 138),
        ("7.5B", 4096, 36, 32, 4, 1, 128, 512, 16, 1, 142),
        ("18.4B", 6144, 40, 48, 8, 1, 256, 1024, 8, 1, 135),
        ("39.1B", 8192, 48, 64, 8, 2, 512, 1536, 4, 1, 138),
        ("76.1B", 10240, 60, 80, 8, 4, 1024, 1792, 2, 3, 140),
        ("145.6B", 12288, 80, 96, 8, 8, 1536, 2304, 2, 2, 148),
        ("310.1B", 16384, 96, 128, 8, 16, 1920, 2160, 1, 2, 155),
        ("529.6B", 20480, 105, 128, 8, 35, 2520, 2520, 1, 3, 163),
        ("1008.0B", 25600, 128, 160, 8, 64, 3072, 3072, 1, 1, 163),
    )
    for name, hidden, layers, heads, tensor, pipeline, gpus, batch, micro, parts, rate in rows:
        model, data = _gpt(hidden, layers, heads), gpus // (tensor * pipeline)
        yield PublishedRun(
            f"GPT {name}, {gpus} A100",
            "Narayanan et al. 2021, table 1",
            model,
            2048,
            Layout(tensor, pipeline, data, micro, batch // (data * micro), recomputation="full", interleaving=parts),
            _A100,
            MEGATRON_2021,
            _counted(model, 2048, batch, 4) / (gpus * rate * 1e12),
        )


def _korthikanti() -> Iterator[PublishedRun]:
    """Rows: name, hidden size, layers, heads, pipeline, batch, micro-batch, parts of each stage, seconds of a step with
    full recomputation, and with selective recomputation and sequence parallelism."""
    rows = (
        ("22B", 6144, 48, 64, 1, 4, 4, 1, 1.42, 1.10),
        ("175B", 12288, 96, 96, 8, 64, 1, 3, 18.13, 13.75),
        ("530B", 20480, 105, 128, 35, 280, 1, 3, 49.05, 37.83),
        ("1T", 25600, 128, 160, 64, 512, 1, 1, 94.42, 71.49),
    )
    for name, hidden, layers, heads, pipeline, batch, micro, parts, full, selective in rows:
        whole = Layout(8, pipeline, 1, micro, batch // micro, recomputation="full", interleaving=parts)
        for layout, seconds, what in (
            (whole, full, "full recomputation"),
            (replace(whole, recomputation="selective", sequence=True), selective, "selective, sequence parallel"),
        ):
            yield PublishedRun(
                f"GPT {name}, {8 * pipeline} A100, {what}",
                "Korthikanti et al. 2022, table 5",
                _gpt(hidden, layers, heads),
                2048,
                layout,
                _A100,
                MEGATRON_2021,
                seconds,
                fitted=True,
            )


def _megatron_turing() -> Iterator[PublishedRun]:
    for data, seconds in ((8, 60.1), (10, 50.2), (12, 44.4)):
        yield PublishedRun(
            f"MT-NLG 530B, {data * 280} A100",
            "Smith et al. 2022, section 2.4",
            _gpt(20480, 105, 128),
            2048,
            Layout(8, 35, data, 1, 1920 // data, recomputation="full"),
            _A100,
            MEGATRON_2021,
            seconds,
            assumed="micro-batch 1, full recomputation",
            reason="the authors call it low and expect optimisation: 126 TFLOP/s where the same model reached 163 with "
            "Megatron-LM alone (Narayanan et al. 2021), which the planner predicts",
        )


def _megatron_core() -> Iterator[PublishedRun]:
    """Rows: name, hidden size, layers, heads, tensor, pipeline, batch, TFLOP/s a GPU; 48 copies of the model each."""
    rows = (
        ("1.7B", 2048, 24, 16, 1, 1, 192, 408.8),
        ("7.1B", 4096, 30, 32, 2, 1, 192, 465.9),
        ("16B", 6144, 32, 48, 4, 1, 192, 489.1),
        ("32B", 7168, 48, 56, 8, 1, 192, 459.6),
        ("70B", 8192, 84, 64, 8, 2, 384, 419.7),
        ("119B", 10240, 92, 80, 8, 4, 768, 420.5),
        ("177B", 12288, 96, 96, 8, 6, 1152, 432.8),
        ("314B", 16384, 96, 128, 8, 8, 1536, 474.4),
        ("462B", 18432, 112, 144, 8, 16, 3072, 459.9),
    )
    for name, hidden, layers, heads, tensor, pipeline, batch, rate in rows:
        model, gpus = _gpt(hidden, layers, heads, 131072, 4096), 48 * tensor * pipeline
        micro = 2 if pipeline == 1 else 1
        parts = layers // pipeline if pipeline > 1 else 1
        yield PublishedRun(
            f"GPT {name}, {gpus} H100",
            "Megatron-LM, images/model_table.png, July 2024",
            model,
            4096,
            Layout(tensor, pipeline, 48, micro, batch // (48 * micro), tensor > 1, interleaving=parts),
            _H100,
            MEGATRON_2024,
            _counted(model, 4096, batch, 3) / (gpus * rate * 1e12),
            fitted=True,
            assumed=f"micro-batch {micro}" + (", stages in parts of one block" if pipeline > 1 else ""),
        )


def _models() -> Iterator[PublishedRun]:
    bloom = _gpt(14336, 70, 112, 250880)
    yield PublishedRun(
        "BLOOM 176B, 384 A100",
        "Le Scao et al. 2022, arXiv:2211.05100, section 3.3",
        bloom,
        2048,
        Layout(4, 12, 8, 2, 128, recomputation="full"),
        _A100,
        BIGSCIENCE,
        _counted(bloom, 2048, 2048, 4) / (384 * 156e12),
    )
    yield PublishedRun(
        "LLaMA 65B, 2048 A100",
        "Touvron et al. 2023, arXiv:2302.13971, section 2.4",
        _llama(8192, 80, 64, 64, 22016, 32000, 2048),
        2048,
        Layout(8, 1, 256, 2, 4, sequence=True),
        _A100,
        OVERLAPPED,
        2048 * 2048 / (380 * 2048),
        assumed="tensor 8, micro-batch 2",
    )
    baichuan = _llama(4096, 32, 32, 32, 11008, 64000, 4096)
    yield PublishedRun(
        "Baichuan 7B, 1000 A800",
        "Baichuan-7B, README",
        baichuan,
        4096,
        Layout(1, 1, 1000, 1, 1),
        _A800,
        OVERLAPPED,
        _counted(baichuan, 4096, 1000, 3) / (1000 * 182e12),
        assumed="4 M tokens a step, no tensor axis, nothing recomputed",
    )
    nemotron = ModelConfig.model_validate({**_gpt(18432, 96, 96, 256000, 4096).model_dump(), "key_value_heads": 8})
    for data, batch, seconds in ((16, 768, 10.3), (64, 2304, 8.0)):
        yield PublishedRun(
            f"Nemotron-4 340B, {96 * data} H100",
            "NVIDIA 2024, arXiv:2406.11704, table 2",
            nemotron,
            4096,
            Layout(8, 12, data, 1, batch // data, sequence=True, interleaving=8),
            _H100,
            MEGATRON_2024,
            seconds,
            assumed="micro-batch 1, parts of one block",
        )
    # The third row is the last phase of pretraining, whose sequences 16 ranks share.
    for length, data, context, micro_batches, rate in (
        (8192, 64, 1, 32, 430), (8192, 128, 1, 16, 400), (131072, 8, 16, 16, 380)
    ):  # fmt: skip
        llama3 = _llama(16384, 126, 128, 8, 53248, 128256, length)
        layout = Layout(8, 16, data, 1, micro_batches, sequence=True, interleaving=7, context=context)
        yield PublishedRun(
            f"Llama 3 405B, {layout.devices} H100" + (f", {length:,} tokens" if context > 1 else ""),
            "Grattafiori et al. 2024, arXiv:2407.21783, table 4",
            llama3,
            length,
            layout,
            _H100,
            MEGATRON_2024,
            _counted(llama3, length, data * micro_batches, 3) / (layout.devices * rate * 1e12),
            assumed="micro-batch 1, seven parts of each stage",
            reason="" if context == 1 else REASON_HALF,
        )

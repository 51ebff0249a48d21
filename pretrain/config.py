"""Settings of a training run, their defaults, and the rules between them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from foundation.configuration import Settings
from pretrain.data.batch_sizes import BatchSizes, Ramp
from pretrain.data.phases import PhaseChange, Weights
from pretrain.evaluation.settings import EvaluationConfig, row_lengths
from pretrain.families.registry import FAMILIES
from pretrain.optimizers.settings import OptimizerConfig
from pretrain.spikes.settings import SpikesConfig
from pretrain.tuning import AdapterConfig, trained_shapes

RESOLVED_FILE = "config.resolved.yaml"
"""File in the run's folder with every setting of the run."""

PARITY_FILE = "parity.json"
"""File in the run's folder with the newest result of `check`, see `pretrain/check/certificate.py`."""

VOCABULARY_MULTIPLE = 128
"""Multiple to which embedding rows are padded, so that they fill the GPU's tiles (as in Le Scao et al. 2022,
arXiv:2211.05100, section 3.2)."""

if TYPE_CHECKING:
    FamilyName = str
else:
    FamilyName = Literal[tuple(FAMILIES)]


Factors = Annotated[
    tuple[float, ...] | None, BeforeValidator(lambda given: tuple(given) if isinstance(given, list) else given)
]
"""Numbers in a setting below `ModelConfig`, whose defaults by family make a list of what JSON would let be a tuple."""


class RopeScaling(Settings):
    """Scaling of the rotary frequencies, by which a model is adapted to longer texts than it was trained on."""

    kind: Literal["linear", "ntk", "llama3", "yarn", "longrope"]
    """linear: all frequencies are divided by `factor` (Chen et al. 2023, arXiv:2306.15595, section 2.3). ntk: the base
    is multiplied by factor^(R / (R - 2)) with R rotated entries, so that only the lowest frequency is divided by the
    whole factor (Peng et al. 2023, arXiv:2309.00071, section 3.1). llama3: only frequencies whose wavelength is long
    compared with `original_positions` are divided, with a transition between the two factors below (Llama 3.1,
    arXiv:2407.21783; the formula is that of the authors' released code). yarn: the same idea, with an attention factor
    (arXiv:2309.00071, sections 3.2 to 3.4). longrope: each frequency is divided by a factor of its own (Ding et al.
    2024, arXiv:2402.13753, section 3), in sequences of up to `original_positions` by another than in longer ones."""
    factor: float | None = Field(default=None, ge=1)
    """Number by which frequencies are divided."""
    low_frequency_factor: float | None = Field(default=None, gt=0)
    """Kind llama3: wavelengths longer than `original_positions` / this are divided by the whole `factor`."""
    high_frequency_factor: float | None = Field(default=None, gt=0)
    """Kind llama3: wavelengths shorter than `original_positions` / this stay."""
    original_positions: int | None = Field(default=None, gt=1)
    """Kinds llama3, yarn and longrope: length of the sequences before the adaptation."""
    beta_fast: float | None = Field(default=None, gt=0)
    """Kind yarn: frequencies with more turns within `original_positions` stay; left out: 32."""
    beta_slow: float | None = Field(default=None, gt=0)
    """Kind yarn: frequencies with fewer turns are divided by the whole `factor`; left out: 1."""
    rounds_edges: bool | None = None
    """Kind yarn: whether the edges of the transition are rounded outwards to whole frequencies; left out: true."""
    attention_factor: float | None = Field(default=None, gt=0)
    """Kinds yarn and longrope: factor of the rotated queries and keys; left out with yarn: 0.1 ln(factor) + 1
    (arXiv:2309.00071, section 3.4), with longrope: 1."""
    short_factors: Factors = None
    """Kind longrope: divisor of each frequency in sequences of up to `original_positions`."""
    long_factors: Factors = None
    """Kind longrope: divisor of each frequency in longer sequences."""

    def base(self, theta: float, size: int) -> float:
        """Base of the frequencies of `size` rotated entries: with kind ntk a larger one than `theta`."""
        return theta * float(self.factor or 1) ** (size / (size - 2)) if self.kind == "ntk" else theta

    @model_validator(mode="after")
    def _belongs_to_its_kind(self) -> RopeScaling:
        required, optional = SCALING_SETTINGS[self.kind]
        for name in type(self).model_fields:
            value = getattr(self, name)
            if name in required and value is None:
                raise ValueError(f"{name}: missing; it is needed with kind {self.kind}")
            if name not in ("kind", *required, *optional) and value is not None:
                raise ValueError(f"{name}: has no effect with kind {self.kind}")
        for low, high in (("low_frequency_factor", "high_frequency_factor"), ("beta_slow", "beta_fast")):
            small, large = getattr(self, low), getattr(self, high)
            if small is not None and large is not None and small >= large:
                raise ValueError(f"{low}: {small} must be less than {high} {large}")
        for name in ("short_factors", "long_factors"):
            if any(factor <= 0 for factor in getattr(self, name) or ()):
                raise ValueError(f"{name}: {min(getattr(self, name))} must be positive")
        return self


SCALING_SETTINGS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "linear": (("factor",), ()),
    "ntk": (("factor",), ()),
    "llama3": (("factor", "low_frequency_factor", "high_frequency_factor", "original_positions"), ()),
    "yarn": (("factor", "original_positions"), ("beta_fast", "beta_slow", "rounds_edges", "attention_factor")),
    "longrope": (("short_factors", "long_factors", "original_positions"), ("attention_factor",)),
}
"""Settings that each kind of scaling requires, and those that it may have."""


class ModelConfig(Settings):
    """A decoder-only model. `family` sets the defaults of its block, see `pretrain/families/registry.py`."""

    family: FamilyName = "llama"
    """Family of models, which sets the defaults of the block, see `pretrain/families/registry.py`."""
    vocabulary_size: int = Field(gt=0)
    """Number of entries of the tokenizer, reserved ones included."""
    hidden_size: int = Field(gt=0)
    """Size of the residual stream."""
    layers: int = Field(gt=0)
    """Number of blocks."""
    attention_heads: int = Field(gt=0)
    """Number of query heads."""
    key_value_heads: int = Field(gt=0)
    """Number of key/value heads; when fewer than the attention heads, groups of heads share keys and values (Ainslie et
    al. 2023, arXiv:2305.13245)."""
    attention_head_size: int | None = Field(default=None, gt=0)
    """Size of a head; left out: hidden_size / attention_heads."""
    feed_forward_size: int = Field(gt=0)
    """Inner size of the MLP; of one of its two inner matrices when it has a gate."""
    maximum_positions: int = Field(gt=0)
    """Longest sequence that the model is designed for, in tokens."""
    positions: Literal["rotary", "rotary_interleaved", "alibi", "learned", "learned_2d"] = "rotary"
    """Kind of positions. Rotary positions rotate the pairs (i, i + E/2) of a head of size E, interleaved ones the pairs
    (2i, 2i + 1). ALiBi: Press et al. 2021, arXiv:2108.12409. Two-dimensional: GLM, arXiv:2103.10360, section 2.3."""
    rope_theta: float = Field(default=10000.0, gt=0)
    """Base of the rotary frequencies (Su et al. 2021, arXiv:2104.09864, section 3.2.2)."""
    rope_scaling: RopeScaling | None = None
    """Scaling of the rotary frequencies, for longer texts; left out: none."""
    rotary_share: float = Field(default=1.0, gt=0, le=1)
    """Share of a head, from its beginning, that rotary positions rotate: 1/4 in GPT-NeoX (Black et al. 2022,
    arXiv:2204.06745, section 2.1), 1/2 in ChatGLM 2 and 3."""
    query_key_norm: Literal["none", "per_head", "all_heads"] = "none"
    """RMSNorm of queries and keys before their positions: of each head, with one weight for all heads (Qwen 3,
    arXiv:2505.09388, section 2), or over all heads at once (OLMo 2, arXiv:2501.00656, section 2.1)."""
    sliding_window: int | None = Field(default=None, gt=0)
    """Number of tokens that a token attends to at most, itself included (Mistral 7B, arXiv:2310.06825, section 2); left
    out: all earlier ones."""
    full_attention_every: int | None = Field(default=None, gt=1)
    """Number n so that every n-th layer has no sliding window (Gemma 3, arXiv:2503.19786, section 2); left out: all
    layers have it."""
    full_attention_first: int = Field(default=0, ge=0)
    """Number of first layers that have no sliding window (Qwen 2, `max_window_layers` of its configurations)."""
    window_rope_theta: float | None = Field(default=None, gt=0)
    """Base of the rotary frequencies, which are not scaled, of layers with a sliding window (Gemma 3, section 2); left
    out: as in the others."""
    attention_scale: float | None = Field(default=None, gt=0)
    """Factor of the products of queries and keys; left out: 1 / sqrt(head size)."""
    attention_soft_cap: float | None = Field(default=None, gt=0)
    """Bound c of the scores of queries and keys: a score is c · tanh(product / c) of the scaled product (Gemma 2,
    arXiv:2408.00118, section 2); left out: the product itself."""
    norm: Literal["rms", "layer", "layer_without_bias"] = "rms"
    """RMSNorm (arXiv:1910.07467), or LayerNorm (arXiv:1607.06450) with or without biases."""
    norm_epsilon: float = Field(default=1e-5, gt=0)
    """Number added to the variance, or to the mean of squares, before the root."""
    embedding_norm: bool = False
    """Whether a norm follows the embedding (Le Scao et al. 2022, arXiv:2211.05100, section 3.2)."""
    block: Literal["sequential", "parallel", "parallel_two_norms", "deepnorm", "post_norm", "sandwich"] = "sequential"
    """Form of the block. Sequential: x + attention(norm(x)), then likewise for the MLP. Parallel: x +
    attention(norm(x)) + mlp(norm(x)), with one norm or one for each. DeepNorm: norm(alpha x + attention(x)), then the
    MLP. Post-norm: x + norm(attention(x)), then the MLP (OLMo 2, arXiv:2501.00656, section 2.1). Sandwich: x +
    norm(attention(norm(x))), then the MLP (Gemma 2, arXiv:2408.00118, section 2)."""
    activation: Literal["swiglu", "geglu", "geglu_tanh", "gelu", "gelu_tanh", "relu"] = "swiglu"
    """Activation of the MLP; SwiGLU and GeGLU add a gate (Shazeer 2020, arXiv:2002.05202)."""
    biases: bool = False
    """Whether the linear layers have biases; the head never has one."""
    query_key_value_biases: bool = False
    """Whether the projections to queries, keys and values have biases; left out: as `biases`."""
    scaled_embedding: bool = False
    """Whether the embedding is multiplied by sqrt(hidden_size) (Vaswani et al. 2017, arXiv:1706.03762, section 3.4)."""
    tied_embedding: bool = False
    """Whether the head uses the embedding's weights."""
    normalised_head: bool = False
    """Whether rows of the head are scaled to length one: NormHead (Yang et al. 2023, arXiv:2309.10305, section
    2.3.2)."""
    logit_scale: float = Field(default=1.0, gt=0)
    """Factor of the logits."""
    logit_soft_cap: float | None = Field(default=None, gt=0)
    """Bound c of the logits, after `logit_scale`: c · tanh(logit / c) (Gemma 2, section 2), of which the loss, its
    other terms and the recorded largest logit are made; left out: none."""
    z_loss: float = Field(default=0.0, ge=0)
    """Weight of the squared logarithm of the softmax's denominator (PaLM, arXiv:2204.02311, section 5)."""
    maximum_z_loss: float = Field(default=0.0, ge=0)
    """Weight of the squared largest logit (Baichuan 2, arXiv:2309.10305, section 2.3.2)."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the target's probability that is spread evenly over all entries, in training only (Szegedy et al. 2015,
    arXiv:1512.00567, section 7)."""
    hidden_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout rate after the embedding, and of what attention and MLP add to the residual stream (Vaswani et al. 2017,
    arXiv:1706.03762, section 5.4); see `pretrain/model/dropout.py`."""
    attention_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout rate of the attention's weights, after the softmax."""
    embedding_gradient_scale: float = Field(default=1.0, gt=0, le=1)
    """Factor of the embedding's gradient (GLM-130B, arXiv:2210.02414, section 3.2)."""
    embedding_learning_rate_ratio: float = Field(default=1.0, gt=0)
    """Learning rate of the embedding relative to that of other weights. AdamW's steps are equally large for all
    weights. PaLM initialises the embedding sqrt(hidden_size) times as wide as the matrices, for an optimizer whose
    steps are relative to a weight's size (arXiv:2204.02311, section 5): with AdamW it needs steps that much larger."""
    base_hidden_size: int | None = Field(default=None, gt=0)
    """Width of the model for which learning rate and `initial_std` were found: those of other widths follow from it
    (μP, Yang et al. 2022, arXiv:2203.03466, table 3). At m times that width, the matrices of the blocks have 1/m of the
    learning rate and begin with 1/sqrt(m) of the standard deviation, the head has 1/m of both, and embedding, norms and
    biases stay as they are. The MLP has to grow with the width, and the number of heads instead of their size. Left
    out: one learning rate and one deviation for all widths."""
    initialisation: Literal["residual_scaled", "fan_in", "deepnorm"] = "residual_scaled"
    """Rule for the initial weights, see `pretrain/model/init.py`."""
    initial_std: float = Field(default=0.02, gt=0)
    """Standard deviation of the initial weights."""

    @property
    def head_size(self) -> int:
        return self.attention_head_size or self.hidden_size // self.attention_heads

    @property
    def rotary_size(self) -> int:
        """Entries of a head that rotary positions rotate."""
        return int(self.head_size * self.rotary_share)

    def attended_length(self, sequence_length: int) -> int:
        """Length of the sequence for the cost of attention: that of a text, or of a shorter one that costs as much as
        the sliding window."""
        window = min(self.sliding_window or sequence_length, sequence_length)
        windowed = 2 * window - window**2 // sequence_length
        full = sum(not self.has_window(layer) for layer in range(self.layers))
        return (full * sequence_length + (self.layers - full) * windowed) // self.layers

    def has_window(self, layer_index: int) -> bool:
        """Whether a layer has the sliding window."""
        every = self.full_attention_every
        is_full = layer_index < self.full_attention_first or (every is not None and (layer_index + 1) % every == 0)
        return self.sliding_window is not None and not is_full

    def padded_vocabulary_size(self, tensor_degree: int = 1) -> int:
        """Rows of the embedding and of the head under a tensor degree: the vocabulary, and after it rows that no token
        uses. The padding belongs to the running topology: a checkpoint fits any padding, and an export has none."""
        multiple = math.lcm(VOCABULARY_MULTIPLE, tensor_degree)
        return -(-self.vocabulary_size // multiple) * multiple

    def learning_rate_ratio(self, name: str, *, is_matrix: bool) -> float:
        """Learning rate of a weight, by its global name, relative to that of the run."""
        if name == "embedding.weight":
            return self.embedding_learning_rate_ratio
        return 1 / self.width_ratio if is_matrix and name.startswith(("layers.", "head.")) else 1.0

    @property
    def width_ratio(self) -> float:
        """Width relative to that of `base_hidden_size`."""
        return 1.0 if self.base_hidden_size is None else self.hidden_size / self.base_hidden_size

    @property
    def has_dropout(self) -> bool:
        return self.hidden_dropout > 0 or self.attention_dropout > 0

    @property
    def is_gated(self) -> bool:
        """Whether the MLP has a gate: three matrices instead of two."""
        return self.activation in ("swiglu", "geglu", "geglu_tanh")

    @property
    def has_mlp_norm(self) -> bool:
        """Whether attention and MLP have a norm each."""
        return self.block != "parallel"

    @property
    def is_rotary(self) -> bool:
        return self.positions.startswith("rotary")

    @model_validator(mode="before")
    @classmethod
    def _of_family(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        name = values.get("family", cls.model_fields["family"].default)
        block = FAMILIES[name].block if isinstance(name, str) and name in FAMILIES else {}  # an unknown name is refused
        settings = {**block, **values}
        settings.setdefault("query_key_value_biases", settings.get("biases", False))
        return settings

    @model_validator(mode="after")
    def _heads_fit(self) -> ModelConfig:
        if self.attention_head_size is None and self.hidden_size % self.attention_heads:
            raise ValueError(
                f"hidden_size: {self.hidden_size} must be a multiple of attention_heads {self.attention_heads}, unless "
                "attention_head_size is given"
            )
        if self.is_rotary and self.rotary_share == 1 and self.head_size % 2:
            raise ValueError(
                f"hidden_size: {self.hidden_size} / attention_heads {self.attention_heads} makes a head size of "
                f"{self.head_size}; rotary positions rotate pairs, so it must be even"
            )
        if self.is_rotary and (self.rotary_size % 2 or not self.rotary_size):
            raise ValueError(
                f"rotary_share: {self.rotary_share} of a head of {self.head_size} is {self.rotary_size}; rotary "
                "positions rotate pairs, so it must be even and at least 2"
            )
        for name in ("short_factors", "long_factors"):
            factors = getattr(self.rope_scaling, name, None)
            if factors is not None and len(factors) != self.rotary_size // 2:
                raise ValueError(
                    f"rope_scaling.{name}: {len(factors)} factors, but heads have {self.rotary_size // 2} frequencies"
                )
        if self.rope_scaling is not None and self.rope_scaling.kind == "ntk" and self.rotary_size == 2:
            raise ValueError("rope_scaling.kind: ntk needs more than one frequency; heads have 1")
        if self.attention_heads % self.key_value_heads:
            raise ValueError(
                f"key_value_heads: {self.key_value_heads} must divide attention_heads {self.attention_heads}"
            )
        return self

    @model_validator(mode="after")
    def _settings_take_effect(self) -> ModelConfig:
        for name, applies, reason in (
            ("rope_theta", self.is_rotary, f"positions are {self.positions}"),
            ("rope_scaling", self.is_rotary, f"positions are {self.positions}"),
            ("rotary_share", self.is_rotary, f"positions are {self.positions}"),
            ("full_attention_every", self.sliding_window is not None, "there is no sliding_window"),
            ("full_attention_first", self.sliding_window is not None, "there is no sliding_window"),
            ("window_rope_theta", self.sliding_window is not None, "there is no sliding_window"),
            ("initial_std", self.initialisation != "fan_in", "initialisation fan_in sets all standard deviations"),
            (
                "base_hidden_size",
                self.initialisation == "residual_scaled",
                f"initialisation {self.initialisation} has deviations of its own",
            ),
            ("normalised_head", not self.tied_embedding, "with tied_embedding there is no separate head"),
        ):
            value = getattr(self, name)
            if not applies and value != type(self).model_fields[name].default:
                raise ValueError(f"{name}: {value} has no effect: {reason}")
        if self.sliding_window is not None and self.full_attention_first >= self.layers:
            raise ValueError(
                f"full_attention_first: {self.full_attention_first} must be less than layers {self.layers}; without a "
                "window in any layer leave sliding_window out"
            )
        if self.base_hidden_size is not None and self.tied_embedding:
            raise ValueError(
                "base_hidden_size: needs tied_embedding=false: the learning rate of the head falls with the width, and "
                "that of the embedding does not"
            )
        return self


class DataConfig(Settings):
    """Training data."""

    mixture: Path
    """Path of the `mixture.yaml` that data preparation wrote beside the token files."""
    sequence_length: int = Field(gt=0)
    """Number of tokens that one sample predicts."""
    weights: Weights | None = None
    """Weights by dataset name that the run begins with, which has no samples of datasets that are not named; left out:
    those of the mixture. A run that is under way gets a mixture with more datasets by naming those that it has."""
    phases: tuple[PhaseChange, ...] = ()
    """Changes of weights and sequence length during the run. They may be added while it is stopped, for samples that it
    has not reached."""
    skipped_samples: tuple[tuple[int, int], ...] = ()
    """Half-open ranges of sample numbers that are not trained on; they may be added like phases. Rollbacks add theirs
    to the ledger."""


class ObjectiveConfig(Settings):
    """Training objective, see `pretrain/data/objective.py`."""

    kind: Literal["causal", "prefix", "blank_infilling"] = "causal"
    """What is predicted: the next token, the rest of a prefix, or blanks in the text (GLM, arXiv:2103.10360)."""
    weighting: Literal["token", "document", "sample"] = "token"
    """Unit that has equal weight in the loss of a global batch and of an evaluation: the target token (Taori et al.
    2023, Alpaca), the document, whatever its number of targets (Muennighoff et al. 2022, BLOOMZ, arXiv:2211.01786,
    section 3.1; not with kinds that cut documents at random), or the sample (GLM). See `pretrain/data/weights.py`."""
    separate_documents: bool = False
    """Whether attention and positions start anew with each document of a window; kind causal only, where packs of
    conversations need it. The other kinds always separate the conversations of packs."""
    short_span_share: float = Field(default=0.3, ge=0, le=1)
    """Share of samples with short blanks; the others have one long blank at the end (GLM-130B, arXiv:2210.02414,
    section 2.2)."""
    mask_token: int | None = Field(default=None, ge=0)
    """Token in place of a short blank."""
    long_mask_token: int | None = Field(default=None, ge=0)
    """Token in place of the long blank at the end."""
    start_token: int | None = Field(default=None, ge=0)
    """Token before the content of a blank."""
    end_token: int | None = Field(default=None, ge=0)
    """Token after the content of a blank."""

    @model_validator(mode="after")
    def _tokens_are_those_of_the_kind(self) -> ObjectiveConfig:
        given = {name: getattr(self, name) for name in BLANK_TOKENS}
        if self.separate_documents and self.kind != "causal":
            raise ValueError(f"separate_documents: only with kind causal; objective.kind is {self.kind}")
        if self.kind == "blank_infilling":
            for name, token in given.items():
                if token is None:
                    raise ValueError(f"{name}: missing; blank_infilling needs {', '.join(BLANK_TOKENS)}")
            if len(set(given.values())) < len(given):
                raise ValueError(f"{', '.join(BLANK_TOKENS)}: {list(given.values())} must be four different tokens")
            return self
        for name, token in given.items():
            if token is not None:
                raise ValueError(f"{name}: {token} has no effect: objective.kind is {self.kind}")
        if self.short_span_share != type(self).model_fields["short_span_share"].default:
            raise ValueError(f"short_span_share: {self.short_span_share} has no effect: objective.kind is {self.kind}")
        return self


BLANK_TOKENS = ("mask_token", "long_mask_token", "start_token", "end_token")
"""Settings of the tokens that blank infilling needs."""


class Degrees(Settings):
    """Parallel degrees to choose from, see `ParallelConfig.preferred`; the data axis takes the remaining processes."""

    tensor: int = Field(default=1, gt=0)
    """Tensor-parallel degree."""
    pipeline: int = Field(default=1, gt=0)
    """Pipeline-parallel degree."""
    context: int = Field(default=1, gt=0)
    """Context-parallel degree."""
    sequence: bool = False
    """Whether sequence parallelism is used, see `parallel.sequence`."""
    micro_batch_size: int | None = Field(default=None, gt=0)
    """Micro-batch size with these degrees; left out: that of `batch`."""

    def __str__(self) -> str:
        context = f" × context {self.context}" if self.context > 1 else ""
        return f"tensor {self.tensor}{context} × pipeline {self.pipeline}"


class ParallelConfig(Settings):
    """Parallel degrees of the four axes; their product is the number of processes."""

    preferred: tuple[Degrees, ...] = ()
    """Degrees to choose from, instead of those below: the first that fit the number of processes are used, so that the
    same command continues a run when a cluster comes back with fewer nodes, see `pretrain/launch/elastic.py`."""
    tensor: int = Field(default=1, gt=0)
    """Tensor-parallel degree: ranks that share each matrix; at most the GPUs of a node."""
    pipeline: int = Field(default=1, gt=0)
    """Pipeline-parallel degree: stages that share the layers."""
    data: int | None = Field(default=None, gt=0)
    """Data-parallel degree; left out: as high as the processes allow."""
    context: int = Field(default=1, gt=0)
    """Context-parallel degree: ranks that share the tokens of each sample, for sequences whose activations are too
    large for one device (Llama 3, arXiv:2407.21783, section 3.3.2)."""
    sequence: bool = False
    """Whether norms and residuals are split over the tensor axis too, by positions: less memory, the same traffic
    (Korthikanti et al. 2022, arXiv:2205.05198, section 4.2.2)."""

    @property
    def processes(self) -> int:
        """Product of the degrees; fewest processes where the data-parallel degree is left out."""
        return self.tensor * self.pipeline * self.context * (self.data or 1)

    @model_validator(mode="after")
    def _sequence_has_an_effect(self) -> ParallelConfig:
        if self.sequence and self.tensor == 1:
            raise ValueError("sequence: has no effect with tensor 1; leave it out or raise tensor")
        if self.preferred:
            for name in ("tensor", "pipeline", "data", "context", "sequence"):
                value = getattr(self, name)
                if value != type(self).model_fields[name].default:
                    raise ValueError(f"{name}: {value} has no effect: parallel.preferred sets the degrees")
        return self


class RampUpConfig(Settings):
    """Batch size that grows at the beginning of a run, as in BLOOM, see `pretrain/data/batch_sizes.py`."""

    start: int = Field(gt=0)
    """Batch size of the first step, in samples."""
    increment: int = Field(gt=0)
    """Growth at a time, in samples."""
    samples: int = Field(gt=0)
    """Number of consumed samples after which the batch has reached `global_batch_size`."""


class BatchConfig(Settings):
    """Batch sizes, in samples of `data.sequence_length` tokens."""

    global_batch_size: int = Field(gt=0)
    """Number of samples of one optimizer step, over all processes."""
    micro_batch_size: int = Field(gt=0)
    """Number of samples that one process computes at a time; gradients are accumulated over a step."""
    ramp_up: RampUpConfig | None = None
    """Growth of the batch; left out: every step has `global_batch_size` samples."""

    @property
    def sizes(self) -> BatchSizes:
        """Size of each step's batch."""
        ramp = self.ramp_up
        return BatchSizes(self.global_batch_size, Ramp(ramp.start, ramp.increment, ramp.samples) if ramp else None)

    @model_validator(mode="after")
    def _the_ramp_ends_at_the_full_size(self) -> BatchConfig:
        try:
            _ = self.sizes
        except ValueError as error:
            raise ValueError(f"ramp_up.{error}") from None
        return self


class ScheduleConfig(Settings):
    """Length of the run and schedule of the learning rate, see `pretrain/schedule.py`."""

    kind: Literal["cosine", "linear", "constant", "inverse_square_root", "wsd"] = "cosine"
    """Shape after the warm-up: half a cosine (arXiv:1608.03983, equation 5) or a line to the lowest rate at the last
    step; the highest rate; that times sqrt(warm-up / samples so far) (Vaswani et al. 2017, arXiv:1706.03762, section
    5.3); or the highest rate until the last `decay_steps` (warmup-stable-decay: Hu et al. 2024, arXiv:2404.06395,
    section 4)."""
    total_steps: int | None = Field(default=None, gt=0)
    """Number of steps of the run; the learning rate has its lowest value at the last one. Left out: by `epochs`."""
    epochs: float | None = Field(default=None, gt=0)
    """Passes over the train samples, instead of `total_steps`, which is computed when the data is opened: the number of
    steps, rounded up, that take as many samples as the passes have."""
    warmup_steps: int | None = Field(default=None, ge=0)
    """Number of steps in which the learning rate rises linearly to its highest value. Left out: by `warmup_ratio`."""
    warmup_ratio: float | None = Field(default=None, ge=0, lt=1)
    """Share of the steps that are warm-up, rounded up to whole ones, instead of `warmup_steps`."""
    decay_steps: int | None = Field(default=None, gt=0)
    """Number of last steps in which the rate of kind `wsd` falls; a tenth to a fifth of the run is enough (Hägele et
    al. 2024, arXiv:2405.18392, section 4)."""
    decay_shape: Literal["one_minus_square_root", "linear"] | None = None
    """Shape of the decay of kind `wsd`: 1 - sqrt(share of the decay), the default, or a line (Hägele et al. 2024,
    arXiv:2405.18392, section 3)."""
    minimum_learning_rate_ratio: float | None = Field(default=None, ge=0, le=1)
    """Learning rate at the end, relative to the highest one; left out: 0.1 for the kinds that fall to it (Touvron et
    al. 2023, arXiv:2302.13971, section 2.3)."""

    @property
    def steps(self) -> int:
        """`total_steps`, which is known once epochs have been turned into steps, see `pretrain/data/epochs.py`."""
        assert self.total_steps is not None
        return self.total_steps

    @property
    def warmup(self) -> int:
        """`warmup_steps`, or those that `warmup_ratio` makes of `steps`."""
        if self.warmup_steps is not None:
            return self.warmup_steps
        assert self.warmup_ratio is not None
        return math.ceil(self.warmup_ratio * self.steps)

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_kind(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        kind = values.get("kind", "cosine")
        defaults: dict[str, Any] = {"decay_shape": "one_minus_square_root"} if kind == "wsd" else {}
        if kind not in ("constant", "inverse_square_root"):
            defaults["minimum_learning_rate_ratio"] = 0.1
        return {**defaults, **{name: value for name, value in values.items() if value is not None}}

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> ScheduleConfig:
        for name, kinds in (
            ("decay_steps", ("wsd",)),
            ("decay_shape", ("wsd",)),
            ("minimum_learning_rate_ratio", ("cosine", "linear", "wsd")),
        ):
            if getattr(self, name) is not None and self.kind not in kinds:
                raise ValueError(f"{name}: has no effect with kind {self.kind}, only with {' and '.join(kinds)}")
        for name, other in (("total_steps", "epochs"), ("warmup_steps", "warmup_ratio")):
            if getattr(self, name) is None and getattr(self, other) is None:
                raise ValueError(f"{name}: missing; give it, or {other}")
            if getattr(self, name) is not None and getattr(self, other) is not None:
                raise ValueError(f"{other}: has no effect beside {name}; leave one of them out")
        if self.kind == "wsd" and self.decay_steps is None:
            raise ValueError("decay_steps: missing; kind wsd needs the number of steps in which the rate falls")
        if self.total_steps is not None and self.decay_steps and self.decay_steps > self.steps - self.warmup:
            raise ValueError(
                f"decay_steps: {self.decay_steps} is more than the {self.steps - self.warmup} steps after the warm-up"
            )
        if self.kind == "inverse_square_root" and not (self.warmup_steps or self.warmup_ratio):
            raise ValueError(
                "warmup_steps: kind inverse_square_root needs a warm-up, whose end its rate is relative to"
            )
        return self


class CheckpointConfig(Settings):
    """Checkpoints; the last step is always saved."""

    every_steps: int = Field(default=1000, gt=0)
    """Steps from one checkpoint to the next."""
    keep_last: int | None = Field(default=None, gt=0)
    """Number of newest checkpoints to keep; left out: all."""
    keep_every_steps: int | None = Field(default=None, gt=0)
    """Checkpoints of a multiple of this many steps are never removed; only with `keep_last`."""
    background: bool = True
    """Whether checkpoints are written while training goes on, from a copy in host memory (12 bytes for each weight that
    a rank updates). Training waits where the copies of a node would take more than half of its free memory."""

    @model_validator(mode="after")
    def _keeping_has_an_effect(self) -> CheckpointConfig:
        if self.keep_every_steps is not None:
            if self.keep_last is None:
                raise ValueError("keep_every_steps: has no effect without keep_last, since all checkpoints are kept")
            if self.keep_every_steps % self.every_steps:
                raise ValueError(
                    f"keep_every_steps: {self.keep_every_steps} must be a multiple of every_steps {self.every_steps}, "
                    "or most of those steps are never saved"
                )
        return self


class HangConfig(Settings):
    """Time without a sign of life after which a run counts as hanging, by activity, see
    `pretrain/monitor/watchdog.py`."""

    starting_seconds: float = Field(default=1800, gt=0)
    """Seconds from the start of a process to the first step: building the model, reading the checkpoint."""
    training_seconds: float = Field(default=600, gt=0)
    """Seconds for one step."""
    evaluating_seconds: float = Field(default=1800, gt=0)
    """Seconds for one evaluation."""
    saving_seconds: float = Field(default=1800, gt=0)
    """Seconds for one checkpoint."""

    @property
    def limits(self) -> dict[str, float]:
        """Seconds by activity."""
        return {name.removesuffix("_seconds"): value for name, value in self.model_dump().items()}


class ProfileConfig(Settings):
    """Steps to profile, see `pretrain/monitor/profiling.py`. A few are enough: a trace has every operation."""

    first_step: int = Field(gt=0)
    """First profiled step. The first steps of a process compile and allocate, and show little else."""
    last_step: int = Field(gt=0)
    """Last profiled step."""
    ranks: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(0,), min_length=1)
    """Ranks that are profiled, with a trace each."""

    @model_validator(mode="after")
    def _steps_are_in_order(self) -> ProfileConfig:
        if self.last_step < self.first_step:
            raise ValueError(f"last_step: {self.last_step} is before first_step {self.first_step}")
        return self


class MonitorConfig(Settings):
    """Monitoring of a run."""

    hang: HangConfig = HangConfig()
    profile: ProfileConfig | None = None
    """Steps whose time is traced; left out: none."""
    stragglers_every_steps: int = Field(default=100, gt=0)
    """Steps between comparisons of the time that each rank spends in its passes, see
    `pretrain/monitor/stragglers.py`."""
    straggler_share: float = Field(default=0.25, gt=0)
    """Share by which a node must be slower than the others, in two comparisons in a row, to be named."""
    memory_stop_share: float = Field(default=0.03, ge=0, lt=1)
    """Share of a node's memory below which the run saves and exits to be restarted, before the kernel kills it."""

    wandb_project: str | None = Field(default=None, min_length=1)
    """Project of Weights & Biases that receives the metrics too; see `pretrain/monitor/weights_and_biases.py`."""
    replicas_every_steps: int = Field(default=100, gt=0)
    """Steps between comparisons of weights that are replicated on several processes. They are also compared at the
    start and before each save. BLOOM's LayerNorm weights drifted apart over tensor ranks unnoticed (BigScience
    chronicles of the 176B run)."""
    peak_flops_per_device: float | None = Field(default=None, gt=0)
    """Peak FLOP/s of a device, to which MFU and HFU are relative; left out: the data sheet's value for some GPUs in
    bf16, and measured at the start on other devices, see `pretrain/monitor/flops.py`."""


class TrainConfig(Settings):
    """A whole training run."""

    output: Path
    """Folder of the run, for checkpoints, metrics and logs."""
    seed: int = Field(default=1234, ge=0)
    """Seed of initial weights, of the order of samples, and of everything that is drawn."""
    model: ModelConfig
    data: DataConfig
    objective: ObjectiveConfig = ObjectiveConfig()
    parallel: ParallelConfig = ParallelConfig()
    batch: BatchConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    precision: Literal["bf16", "fp32"] = "bf16"
    """Precision of the computation; with bf16, master weights, accumulated gradients and optimizer state are fp32."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Whether torch's compiler fuses the operations of a block, and those of the loss. `auto`: on GPUs only, because
    CPUs have functions of their own. The first step of each sequence length takes longer, minutes for a large model.
    Results differ by rounding."""
    attention_backend: Literal["auto", "flash", "cudnn"] = "auto"
    """Kernel of torch's fused attention on a GPU, in bf16; `auto`: torch's choice, which the start of the run prints.
    FlexAttention computes layouts, ALiBi and soft caps, and has no choice."""
    deterministic: bool = False
    """Whether two runs with the same settings, processes and GPUs compute the same bits: torch, cuBLAS, NCCL and
    attention use algorithms that sum in a fixed order only, and whatever has none is refused. On a GPU it costs speed,
    most of it in the backward pass of attention. On a CPU results are always the same, and nothing changes. See
    docs/gpus.md."""
    check: bool = False
    """Whether each start first proves, with a tiny twin of the model, that these processes compute what one process
    computes; it ends the run where they do not. Takes less than a minute. See docs/gpus.md."""
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    monitor: MonitorConfig = MonitorConfig()
    initial_weights: Path | None = None
    """Checkpoint whose weights a new run starts from, for example an imported one; its step, optimizer state and data
    are not used. With `trainable` or `adapter` the checkpoints of the run refer to it for the weights that stay."""
    trainable: tuple[str, ...] | None = None
    """Weights that are trained: names of weights or of modules, in which `*` stands for any characters, such as
    `head`, `layers.3` or `*_norm`. The others are frozen: no gradient, no optimizer state, no fp32 copy. Left out: all
    of them; with an adapter, none beside it."""
    adapter: AdapterConfig | None = None
    """Low-rank adapters beside frozen weights; left out: none."""
    branch_from: Path | None = None
    """Checkpoint of another run that a new run goes on from as if it were its own, with step, optimizer state and
    place in the data: to decay the learning rate from there, for example, while the other run continues."""
    recomputation: Literal["none", "selective", "full"] = "none"
    """Activations that the backward pass computes again instead of saving them: those of the attention's scores
    (selective), or of whole blocks (full) (Korthikanti et al. 2022, arXiv:2205.05198, section 5)."""
    spikes: SpikesConfig = SpikesConfig()
    stop_after_step: int | None = Field(default=None, gt=0)
    """Step after which the run saves and stops; the schedule still extends to `schedule.total_steps`."""

    @property
    def sequence_lengths(self) -> list[int]:
        """Sequence lengths of the run, in tokens: that of the start, and those of the phases."""
        changed = [phase.sequence_length for phase in self.data.phases if phase.sequence_length is not None]
        return [self.data.sequence_length, *changed]

    @property
    def scored_lengths(self) -> list[int]:
        """Lengths of the rows in which `evaluation.tasks` are scored, ascending; empty when there are none."""
        if not self.evaluation.tasks:
            return []
        return row_lengths(self.model.maximum_positions, self._length_multiple, self._length_of_other_factors)

    @property
    def _length_multiple(self) -> int:
        """Number of parts of one size into which the parallel axes divide a sequence."""
        parallel = self.parallel
        chunks = 2 * parallel.context if parallel.context > 1 else 1
        return chunks * (parallel.tensor if parallel.sequence else 1)

    def _check_length(self, name: str, length: int) -> None:
        if length % self._length_multiple:
            parallel = self.parallel
            factors = [f"2 × parallel.context {parallel.context}"] if parallel.context > 1 else []
            factors += [f"parallel.tensor {parallel.tensor} (parallel.sequence)"] if parallel.sequence else []
            raise ValueError(
                f"{name}: {length} must be a multiple of {' × '.join(factors)}, which is {self._length_multiple}"
            )

    @property
    def _length_of_other_factors(self) -> int | None:
        """Length of a sequence up to which its rotary factors are other ones than beyond it."""
        scaling = self.model.rope_scaling
        return scaling.original_positions if scaling is not None and scaling.kind == "longrope" else None

    @property
    def has_layout(self) -> bool:
        """Whether samples have a layout, see `pretrain/model/layout.py`."""
        return self.objective.kind != "causal" or self.objective.separate_documents

    @property
    def has_dropout(self) -> bool:
        """Whether samples have keys for dropout masks, see `pretrain/model/dropout.py`."""
        return self.model.has_dropout or (self.adapter is not None and self.adapter.dropout > 0)

    @property
    def is_partial(self) -> bool:
        """Whether some weights are frozen."""
        return self.trainable is not None or self.adapter is not None

    @property
    def trained_shapes(self) -> dict[str, tuple[int, ...]]:
        """Whole shapes of the trained weights, without padding rows, by global name."""
        return trained_shapes(self.model, self.trainable, self.adapter)

    @property
    def kinds_of_blocks(self) -> int:
        """Number of kinds of blocks by which of their weights are trained."""
        inner: dict[int, set[str]] = {layer: set() for layer in range(self.model.layers)}
        for name in self.trained_shapes:
            if name.startswith("layers."):
                _, layer, weight = name.split(".", 2)
                inner[int(layer)].add(weight)
        return len({frozenset(names) for names in inner.values()})

    @property
    def trained_count(self) -> int:
        """Number of trained weights."""
        return sum(math.prod(shape) for shape in self.trained_shapes.values())

    @property
    def last_step(self) -> int:
        """Number of steps after which the run ends: `stop_after_step`, or all of the schedule."""
        return min(self.schedule.steps, self.stop_after_step or self.schedule.steps)

    def accumulation_steps(self, data_size: int, batch_size: int | None = None) -> int:
        """Number of micro-batches of one process in a step, with `data_size` processes on the data axis.

        Args:
            batch_size: samples of the step; None: the full global batch.
        """
        return (batch_size or self.batch.global_batch_size) // (self.batch.micro_batch_size * data_size)

    @model_validator(mode="after")
    def _documents_are_trained_on_as_alone(self) -> TrainConfig:
        scaling = self.model.rope_scaling
        if self.has_layout and scaling is not None and scaling.kind == "longrope":
            raise ValueError(
                "model.rope_scaling.kind: longrope has other factors in long samples, so that documents in one sample "
                "would not be trained on as if alone; objective.kind must be causal, without separate_documents"
            )
        return self

    @model_validator(mode="after")
    def _starts_from_one_model(self) -> TrainConfig:
        if self.initial_weights is not None and self.branch_from is not None:
            raise ValueError("branch_from: a run starts from initial_weights or from branch_from, not from both")
        return self

    @model_validator(mode="after")
    def _what_is_trained_fits(self) -> TrainConfig:
        _ = self.trained_shapes
        if self.adapter is not None and self.model.base_hidden_size is not None:
            raise ValueError("model.base_hidden_size: has no rule for adapters, whose rank does not grow; leave it out")
        if self.is_partial and self.initial_weights is None and self.branch_from is None:
            given = "adapter" if self.adapter is not None else "trainable"
            raise ValueError(
                f"{given}: weights that stay must come from a trained model: give its checkpoint as initial_weights"
            )
        return self

    @model_validator(mode="after")
    def _axes_divide_the_model(self) -> TrainConfig:
        check_tensor_degree(self.model, self.parallel.tensor)
        model, pipeline = self.model, self.parallel.pipeline
        if pipeline > model.layers:
            raise ValueError(
                f"parallel.pipeline: {pipeline} stages need at least one layer each, and model.layers is {model.layers}"
            )
        return self

    @model_validator(mode="after")
    def _attention_backend_fits(self) -> TrainConfig:
        choice = self.attention_backend
        if choice == "auto":
            return self
        for applies, reason in (
            (self.model.positions == "alibi", "model.positions is alibi, which FlexAttention computes"),
            (self.has_layout, "the objective has layouts, which FlexAttention computes"),
            (self.parallel.context > 1, "parallel.context needs layouts, which FlexAttention computes"),
            (self.model.attention_soft_cap is not None, "model.attention_soft_cap needs FlexAttention"),
            (self.model.attention_dropout > 0, "model.attention_dropout needs all scores"),
        ):
            if applies:
                raise ValueError(f"attention_backend: {choice} has no effect: {reason}")
        if self.precision == "fp32":
            raise ValueError(f"attention_backend: {choice} has no kernel for precision fp32")
        if self.deterministic and choice == "cudnn":
            raise ValueError("attention_backend: cudnn adds in no fixed order; deterministic needs flash or auto")
        return self

    @model_validator(mode="after")
    def _objective_fits(self) -> TrainConfig:
        objective = self.objective
        if objective.kind != "causal" and self.data.sequence_length < 16:
            raise ValueError(
                f"data.sequence_length: {self.data.sequence_length} is too short for objective.kind {objective.kind}, "
                "which needs 16 tokens"
            )
        for name in BLANK_TOKENS:
            token = getattr(objective, name)
            if token is not None and token >= self.model.vocabulary_size:
                raise ValueError(
                    f"objective.{name}: {token} must be below model.vocabulary_size {self.model.vocabulary_size}"
                )
        return self

    @model_validator(mode="after")
    def _samples_fit(self) -> TrainConfig:
        if self.data.sequence_length > self.model.maximum_positions:
            raise ValueError(
                f"data.sequence_length: {self.data.sequence_length} is longer than model.maximum_positions "
                f"{self.model.maximum_positions}"
            )
        for length in self.sequence_lengths:
            self._check_length("data.sequence_length" if length == self.data.sequence_length else "data.phases", length)
        for phase in self.data.phases:
            if (phase.sequence_length or 0) > self.model.maximum_positions:
                raise ValueError(
                    f"data.phases: sequence_length {phase.sequence_length} from sample {phase.from_sample} is longer "
                    f"than model.maximum_positions {self.model.maximum_positions}"
                )
        if self.parallel.data is not None:
            _check_batch(self, self.parallel.data)
        else:
            _check_batch(self, 1)
        return self

    @model_validator(mode="after")
    def _optimizer_fits(self) -> TrainConfig:
        kind, model, optimizer = self.optimizer.kind, self.model, self.optimizer
        if kind != "adamw" and model.base_hidden_size is not None:
            raise ValueError(
                f"model.base_hidden_size: its rule for learning rates is for AdamW; optimizer.kind is {kind}"
            )
        if kind == "adafactor" and model.embedding_learning_rate_ratio != 1.0:
            raise ValueError(
                f"model.embedding_learning_rate_ratio: {model.embedding_learning_rate_ratio} would count twice: "
                "Adafactor's steps are relative to the embedding's size already; set it to 1"
            )
        if kind == "muon" and self.adapter is not None:
            raise ValueError("optimizer.kind: muon has no rule for adapters, whose two matrices make one; use adamw")
        shapes = self.trained_shapes
        matrices = sum(optimizer.is_orthogonalised(name, shape) for name, shape in shapes.items())
        if kind == "muon" and not matrices:
            raise ValueError("optimizer.kind: muon has no effect: trainable has no matrix of a block")
        for name in ("beta1", "beta2", "epsilon") if matrices == len(shapes) else ():
            value = getattr(optimizer, name)
            if value != type(optimizer).model_fields[name].default:
                raise ValueError(
                    f"optimizer.{name}: {value} has no effect: all trained weights are matrices, whose steps are Muon's"
                )
        return self

    @model_validator(mode="after")
    def _tasks_can_be_scored(self) -> TrainConfig:
        if not self.evaluation.tasks:
            return self
        if self.objective.kind != "causal":
            raise ValueError(
                "evaluation.tasks: tasks ask how likely a text is after another, which a model of objective.kind "
                f"{self.objective.kind} does not tell; leave them out"
            )
        for name, length in (
            ("model.maximum_positions", self.model.maximum_positions),
            ("model.rope_scaling.original_positions", self._length_of_other_factors),
        ):
            if length is not None:
                self._check_length(f"evaluation.tasks: {name}", length)
        return self

    @model_validator(mode="after")
    def _a_checkpoint_is_left_to_go_back_to(self) -> TrainConfig:
        spikes, keep, every = self.spikes, self.checkpoint.keep_last, self.checkpoint.every_steps
        reach = spikes.rollback_steps + spikes.detector.patience_steps
        if spikes.enabled and keep is not None and (keep - 1) * every < reach:
            raise ValueError(
                f"checkpoint.keep_last: {keep} checkpoints, one every {every} steps, reach back {(keep - 1) * every} "
                f"steps, but a rollback can go from spikes.detector.patience_steps {spikes.detector.patience_steps} "
                f"after a spike's onset to spikes.rollback_steps {spikes.rollback_steps} before it: keep "
                f"{-(-reach // every) + 1}, or set spikes.enabled=false"
            )
        for start, stop in self.data.skipped_samples:
            if not 0 <= start < stop:
                raise ValueError(f"data.skipped_samples: [{start}, {stop}) must be half-open with 0 <= start < stop")
        return self

    @model_validator(mode="after")
    def _steps_are_in_order(self) -> TrainConfig:
        total_steps = self.schedule.total_steps
        if total_steps is None:
            named = "phases" if self.data.phases else "weights" if self.data.weights else None
            if named:
                raise ValueError(
                    f"schedule.epochs: with data.{named} a pass over the data has no certain length; give "
                    "schedule.total_steps"
                )
            return self
        if self.schedule.warmup >= total_steps:
            raise ValueError(
                f"schedule.warmup_steps: {self.schedule.warmup} must be less than schedule.total_steps {total_steps}"
            )
        ramp = self.batch.ramp_up
        if ramp is not None and self.batch.sizes.after(total_steps) <= ramp.samples:
            raise ValueError(
                f"batch.global_batch_size: {self.batch.global_batch_size} has no effect: the {total_steps} steps of "
                f"schedule.total_steps take {self.batch.sizes.after(total_steps)} samples, and the batch grows over "
                f"batch.ramp_up.samples {ramp.samples}: {self.batch.sizes.steps_to(ramp.samples) + 1} steps at least"
            )
        if self.stop_after_step is not None and self.stop_after_step > total_steps:
            raise ValueError(
                f"stop_after_step: {self.stop_after_step} has no effect, schedule.total_steps is {total_steps}"
            )
        if self.monitor.profile is not None and self.monitor.profile.last_step > self.last_step:
            raise ValueError(
                f"monitor.profile.last_step: {self.monitor.profile.last_step} is not reached, the run ends after step "
                f"{self.last_step}"
            )
        return self


def check_tensor_degree(model: ModelConfig, tensor: int) -> None:
    """Raise a ValueError that names the setting when a model cannot be split over this many tensor ranks."""
    for name in ("attention_heads", "feed_forward_size"):
        value = getattr(model, name)
        if value % tensor:
            raise ValueError(f"parallel.tensor: {tensor} must divide model.{name} {value}")
    heads = model.key_value_heads
    if heads % tensor and tensor % heads:
        raise ValueError(f"parallel.tensor: {tensor} must divide model.key_value_heads {heads}, or be a multiple of it")
    if heads * model.head_size < tensor:
        raise ValueError(
            f"parallel.tensor: {tensor} is more than the {heads * model.head_size} rows of the model's "
            f"{heads} key/value heads"
        )


def check_world_size(config: TrainConfig, world_size: int) -> int:
    """Degree of the data axis with `world_size` processes.

    Raises:
        ValueError: the degrees do not multiply to the number of processes, or the batch is not divisible by them.
    """
    parallel = config.parallel
    degrees = {"tensor": parallel.tensor, "pipeline": parallel.pipeline}
    if parallel.context > 1:
        degrees["context"] = parallel.context
    if parallel.data is not None:
        degrees["data"] = parallel.data
    text = " × ".join(f"parallel.{axis} {degree}" for axis, degree in degrees.items())
    product = math.prod(degrees.values())
    if parallel.data is not None:
        if product != world_size:
            raise ValueError(
                f"{text} = {product}, but {world_size} processes were started; start {product}, change a degree, or "
                "leave parallel.data out"
            )
        return parallel.data
    if world_size % product:
        raise ValueError(f"{text} = {product} must divide the number of processes, {world_size}")
    data_size = world_size // product
    _check_batch(config, data_size)
    return data_size


def check_vocabulary(config: TrainConfig, mixture_vocabulary_size: int) -> None:
    """Check the model's vocabulary size against that of the token files.

    Raises:
        ValueError: they differ, so that tokens have no row in the embedding, or rows no token.
    """
    if config.model.vocabulary_size != mixture_vocabulary_size:
        raise ValueError(
            f"model.vocabulary_size: {config.model.vocabulary_size} differs from the {mixture_vocabulary_size} of "
            f"data.mixture {config.data.mixture}; the model must have as many entries as the tokenizer"
        )


def _check_batch(config: TrainConfig, data_size: int) -> None:
    ramp, micro = config.batch.ramp_up, config.batch.micro_batch_size
    sizes = {"global_batch_size": config.batch.global_batch_size}
    if ramp is not None:
        sizes |= {"ramp_up.start": ramp.start, "ramp_up.increment": ramp.increment}
    axis = f" × data-parallel processes {data_size} = {micro * data_size}" if data_size > 1 else ""
    for name, size in sizes.items():
        if size % (micro * data_size):
            raise ValueError(f"batch.{name}: {size} must be a multiple of batch.micro_batch_size {micro}{axis}")

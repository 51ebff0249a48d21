"""The engine: DeepSpeed's pipeline, ZeRO-1 and bf16 optimizer behind a small interface."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from pretrain.config import TrainConfig
from pretrain.data.objective import Batch
from pretrain.device import local_device
from pretrain.engine.deepspeed_config import deepspeed_config
from pretrain.engine.deepspeed_patches import (
    add_gradients_without_copies,
    allow_stages_without_own_weights,
    keep_no_times,
    norm_without_copies,
    reduce_in_place,
    step_without_waiting,
)
from pretrain.engine.groups import context_of, tensor_group
from pretrain.engine.library import (
    LOG_LEVEL,
    BackwardPass,
    BF16_Optimizer,
    ForwardPass,
    PipeModelDataParallelTopology,
    ReduceTiedGrads,
    deepspeed,
    deepspeed_logger,
    safe_get_full_grad,
)
from pretrain.engine.optimizer import BufferedWeight, first_state, make_optimizer, tell_of_buffer
from pretrain.engine.own_tokens import own_tokens
from pretrain.engine.pipeline_module import Pipeline
from pretrain.engine.settings_check import check_settings
from pretrain.launch.agreement import gathered
from pretrain.model.attention_backend import choose_attention
from pretrain.model.block import Block, HeadFactors
from pretrain.model.compilation import is_compiled, refuse_fallbacks
from pretrain.model.init import whole_weight
from pretrain.model.linear import TensorParallel
from pretrain.model.loss import LossSettings, mean_loss
from pretrain.model.partition import Partition, partition_of
from pretrain.model.pipeline import pipeline_layers
from pretrain.model.scores import row_scores
from pretrain.topology import Topology

EMBEDDING = "embedding.weight"
"""Global name of the word embedding."""


@dataclass(frozen=True)
class StepResult:
    """Result of one training step, the same on every rank.

    Attributes:
        loss: mean over the tokens of the global batch, in nats.
        gradient_norm: L2 norm over the whole model, before clipping; infinity if any gradient is infinite or NaN.
        embedding_gradient_norm: L2 norm of the word embedding's gradient, before clipping.
        largest_logit: largest logit of the real entries of the vocabulary at tokens that count in the loss, before the
            update; -infinity when no token counts.
        applied: False when the update was dropped, so that weights and moments have not changed.
        stop_wanted: whether any rank wants to stop.
    """

    loss: float
    gradient_norm: float
    embedding_gradient_norm: float
    largest_logit: float
    applied: bool = True
    stop_wanted: bool = False

    @property
    def signs(self) -> dict[str, float]:
        """Early signs of a loss spike, by name."""
        return {
            "gradient_norm": self.gradient_norm,
            "embedding_gradient_norm": self.embedding_gradient_norm,
            "largest_logit": self.largest_logit,
        }

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.gradient_norm)


@dataclass(frozen=True)
class Fragment:
    """The part of one parameter whose fp32 master weight and moments this rank updates.

    Attributes:
        name: the parameter's global name.
        shape: shape of the whole parameter.
        partition: its split over the tensor axis; None: replicated on every tensor rank.
        start, stop: half-open range in this tensor rank's flattened shard.
        states: "weight", "exp_avg", "exp_avg_sq" -> fp32 [stop - start], views of the optimizer's own memory; without
            the last one where it has no second moment.
        is_copy: it belongs to a tied parameter, and the first stage has the same values.
    """

    name: str
    shape: tuple[int, ...]
    partition: Partition | None
    start: int
    stop: int
    states: dict[str, torch.Tensor]
    is_copy: bool = False


class _GroupKind(NamedTuple):
    """What the weights of a parameter group have in common."""

    learning_rate_ratio: float
    weight_decay: float
    is_orthogonalised: bool


def _with_gradient(outputs: Any) -> Any:
    """The outputs of a pipeline stage, whose activations require a gradient."""
    activations = outputs[0] if isinstance(outputs, tuple) else outputs
    if torch.is_grad_enabled() and isinstance(activations, torch.Tensor) and not activations.requires_grad:
        activations.requires_grad_()
    return outputs


class Engine:
    """The sharded model and its optimizer on this rank."""

    def __init__(self, config: TrainConfig, topology: Topology) -> None:
        self.config = config
        self.topology = topology
        self.rank = dist.get_rank()
        self.coordinate = topology.coordinate(self.rank)
        self._replica = self.coordinate.data * topology.context + self.coordinate.context
        dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        tensor_parallel = TensorParallel(
            tensor_group(topology),
            dtype,
            config.parallel.sequence,
            deterministic=config.deterministic,
            context=context_of(topology),
        )
        self._tensor_parallel = tensor_parallel
        model = config.model

        self._largest_logit = torch.zeros((), device=local_device())
        self._answers = torch.tensor([0.0, 1.0], device=local_device())  # no and yes, without a copy from the host
        choose_attention(config, local_device())
        compiles = is_compiled(config.compile, local_device())
        settings = LossSettings(
            model.vocabulary_size,
            model.label_smoothing,
            model.z_loss,
            model.maximum_z_loss,
            self._largest_logit,
            compiles,
            model.logit_soft_cap,
        )
        if compiles or local_device().type == "cuda":
            refuse_fallbacks([*config.sequence_lengths, *config.scored_lengths], config.kinds_of_blocks)

        def loss(head: HeadFactors, labels: torch.Tensor | tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
            targets_BS, weights_BS = labels if isinstance(labels, tuple) else (labels, None)
            return mean_loss(
                head.x_SBD,
                head.weight_VD,
                targets_BS.transpose(0, 1).contiguous(),
                None if weights_BS is None else weights_BS.transpose(0, 1),
                tensor_parallel.group,
                settings,
            )

        with redirect_stdout(StringIO()):  # rank 0 of DeepSpeed prints its plan
            self._pipeline = Pipeline(
                pipeline_layers(
                    config.model, config.data.sequence_length, tensor_parallel, config.recomputation, config.adapter
                ),
                topology=PipeModelDataParallelTopology(topology.pipe, topology.tensor, topology.replicas),
                loss_fn=loss,
            )
        if compiles:
            for module in self._pipeline.modules():
                if isinstance(module, Block):
                    module.compile_graph()
        self._parameters = dict(self._pipeline.named_global_parameters())
        self._initialise_weights()
        self._trained = self._freeze_the_rest()
        self.partial_parameters = [
            parameter for parameter in self._trained.values() if tensor_parallel.has_partial_gradient(parameter)
        ]
        """Trained weights of this stage of whose gradients each tensor rank has a part until the end of a step."""
        groups = self._parameter_groups()
        deepspeed_logger.setLevel(LOG_LEVEL)
        with redirect_stdout(StringIO()):
            self._engine, *_ = deepspeed.initialize(
                model=self._pipeline,
                optimizer=lambda groups: make_optimizer(config.optimizer, groups, dtype),
                model_parameters=[dict(group) for group in groups],  # which torch changes
                config=deepspeed_config(config, topology),
            )
        check_settings(self._engine, config, topology, groups)
        keep_no_times(self._engine)
        self._norm_limit = math.inf
        if config.precision == "bf16":
            allow_stages_without_own_weights(self._engine.optimizer)
            add_gradients_without_copies(self._engine.optimizer)
            reduce_in_place(self._engine)
            step_without_waiting(self._engine.optimizer, lambda: self._norm_limit)
        else:
            self._drop_above_norm_limit()
            self._share_weights_with_masters()
            if local_device().type == "cpu":
                norm_without_copies(self._engine.optimizer)
        self._tell_of_buffers()
        self._instead_of((ReduceTiedGrads,), self._after_partial_gradients)
        self._sequence_length = config.data.sequence_length
        self.updates = 0
        """Number of updates since the initial weights: steps whose update was not dropped."""
        self._embedding_square = torch.zeros((), device=local_device())
        self.before_update(self._measure_embedding_gradient)

    def _drop_above_norm_limit(self) -> None:
        # In fp32, DeepSpeed computes the norm before it calls the inner optimizer, and drops NaN and infinity itself.
        optimizer = self._engine.optimizer
        update = optimizer.optimizer.step

        def limited() -> None:
            optimizer.optimizer.found_inf = (optimizer._global_grad_norm > self._norm_limit).float()
            update()

        optimizer.optimizer.step = limited

    def _share_weights_with_masters(self) -> None:
        """Make the fp32 weights their own master weights, which saves memory and a copy in each step."""
        optimizer = self._engine.optimizer
        for master, parts in zip(
            optimizer.single_partition_of_fp32_groups, optimizer.parallel_partitioned_bit16_groups, strict=True
        ):
            master.data = parts[self._replica].data
        for parameter in self._trained.values():
            mapping = parameter._hp_mapping  # type: ignore[attr-defined]
            if mapping is not None:
                master = optimizer.param_groups[mapping.param_group_index]["params"][0]
                inside = mapping.hp_fragment_address
                mapping.hp_fragment.data = master.data.narrow(0, inside.start, inside.numel)

    def _tell_of_buffers(self) -> None:
        """Tell the optimizer which weights are in its flat buffers, in their order."""
        optimizer = self._engine.optimizer
        groups = optimizer.bf16_groups if isinstance(optimizer, BF16_Optimizer) else optimizer.bit16_groups
        names = {id(parameter): name for name, parameter in self._trained.items()}
        for group, parameters in zip(optimizer.param_groups, groups, strict=True):
            contents = [
                BufferedWeight(names.get(id(own)), self.whole_shape(own), tuple(own.shape), partition_of(own))
                for own in parameters
            ]
            tell_of_buffer(
                optimizer.optimizer,
                group,
                contents,
                self.config.model.vocabulary_size,
                self._engine.mpu.get_data_parallel_group(),
                self._tensor_parallel.group,
            )

    def _measure_embedding_gradient(self) -> None:
        """Compute this rank's part of the embedding gradient's sum of squares; replicas are counted on one rank
        only."""
        self._embedding_square = torch.zeros((), device=local_device())
        parameter = self._trained.get(EMBEDDING)
        if parameter is None or parameter.ds_pipe_replicated:  # type: ignore[attr-defined]
            return
        optimizer = self._engine.optimizer
        if isinstance(optimizer, BF16_Optimizer):  # each replica has all of it
            parts = [parameter._hp_grad] if self._replica == 0 else []  # type: ignore[attr-defined]
        else:  # each replica has a part of it
            parts = [
                gradient
                for group, parameters in enumerate(optimizer.params_in_partition)
                for gradient, owner in zip(optimizer.averaged_gradients[group], parameters, strict=False)
                if owner is parameter
            ]
        for part in parts:
            self._embedding_square = self._embedding_square + torch.linalg.vector_norm(part.detach().float()).square()

    def _initialise_weights(self) -> None:
        degree, rank = self.topology.tensor, self.coordinate.tensor
        for name, parameter in self._parameters.items():
            partition = partition_of(parameter)
            weight = whole_weight(name, self.whole_shape(parameter), self.config.seed, self.config.model)
            with torch.no_grad():
                parameter.copy_(weight if partition is None else partition.shard(weight, rank, degree))

    def _freeze_the_rest(self) -> dict[str, torch.nn.Parameter]:
        """Freeze the weights that are not trained; returns the others of this stage, by name."""
        trained = self.config.trained_shapes
        for name, parameter in self._parameters.items():
            parameter.requires_grad_(name in trained)
        own = {name: parameter for name, parameter in self._parameters.items() if name in trained}
        if not own:
            # What the stage passes on then depends on no weight that is trained, and DeepSpeed's backward pass needs
            # a gradient of it: it gets one and nothing else is computed.
            self._pipeline.register_forward_hook(lambda module, inputs, outputs: _with_gradient(outputs))
        return own

    def whole_shape(self, parameter: torch.nn.Parameter) -> tuple[int, ...]:
        """Shape of the whole parameter, of which this rank may have a shard."""
        partition = partition_of(parameter)
        shape = list(parameter.shape)
        if partition is not None:
            shape[partition.dim] = sum(partition.blocks)
        return tuple(shape)

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """Parameter groups: the same weight decay in each step for all matrices, and none for norms and biases, as in
        every family's paper. Collective.

        Every stage has the same groups in the same order, because DeepSpeed sums the gradient norm over the stages
        group by group. A group of which a stage has no weight gets a placeholder, which DeepSpeed needs and which is
        neither trained nor saved.
        """
        # Adafactor computes its decay itself: for it, a group has some or none.
        decay = 1.0 if self.config.optimizer.kind == "adafactor" else self.config.optimizer.weight_decay
        own: dict[_GroupKind, list[torch.nn.Parameter]] = {}
        for name, parameter in self._trained.items():
            is_matrix = parameter.ndim > 1
            ratio = self.config.model.learning_rate_ratio(name, is_matrix=is_matrix)
            is_orthogonalised = self.config.optimizer.is_orthogonalised(name, parameter.shape)
            kind = _GroupKind(ratio, decay / ratio if is_matrix else 0.0, is_orthogonalised)
            own.setdefault(kind, []).append(parameter)
        kinds = sorted({kind for stage in gathered(list(own)) for kind in stage}, reverse=True)
        return [{"params": own.get(kind) or [self._placeholder()], **kind._asdict()} for kind in kinds]

    def _placeholder(self) -> torch.nn.Parameter:
        parameter = torch.nn.Parameter(torch.zeros(2, dtype=next(iter(self._parameters.values())).dtype))
        number = sum(1 for _ in self._pipeline.parameters(recurse=False))
        self._pipeline.register_parameter(f"placeholder_{number}", parameter)
        return parameter

    def close(self) -> None:
        """Let go of the engine's memory, after which it cannot be used. DeepSpeed's hooks refer to its objects from
        where Python's garbage collector does not see them, so that the objects are emptied."""
        self._engine.destroy()
        for part in (self._engine.optimizer.optimizer, self._engine.optimizer, self._engine, self._pipeline, self):
            vars(part).clear()

    def set_sequence_length(self, sequence_length: int) -> None:
        """Set the length of the next samples: after a change the pipeline's stages exchange shapes again."""
        if sequence_length != self._sequence_length:
            self._engine.reset_activation_shape()
            self._sequence_length = sequence_length

    def train_step(
        self,
        batches: Iterator[Batch],
        learning_rate: float,
        norm_limit: float = math.inf,
        batch_size: int | None = None,
        wants_stop: Callable[[], bool] = lambda: False,
    ) -> StepResult:
        """Forward, backward and update over one global batch. NaN and infinity never reach weights or moments.

        Args:
            batches: micro-batches of this data rank, see `objective.Batch`; one global batch is taken from it.
            learning_rate: learning rate of this step.
            norm_limit: largest gradient norm; an update with a higher one is dropped.
            batch_size: samples of this global batch; None: the full size.
            wants_stop: whether this rank wants to stop after the step; asked once its passes are queued.

        Raises:
            FloatingPointError: the loss is not finite while the gradient norm is, so that an update was applied.
        """
        self._norm_limit = norm_limit
        self._set_batch_size(batch_size or self.config.batch.global_batch_size)
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate * group["learning_rate_ratio"]
        self._largest_logit.fill_(-math.inf)
        loss = self._engine.train_batch(self._own_tokens(batches))
        mine = torch.stack([self._embedding_square, self._largest_logit, self._answers[int(wants_stop())]])
        by_rank = mine.new_zeros(self.topology.world_size, len(mine))
        by_rank[self.rank] = mine
        dist.all_reduce(by_rank)
        squares, logits, stops = by_rank.unbind(1)
        norm = torch.as_tensor(self._engine.get_global_grad_norm(), device=local_device())
        numbers = [loss, norm, squares.sum().sqrt(), logits.max(), stops.max()]
        # In bf16 the only synchronisation of host and device; in fp32 DeepSpeed also reads the norm.
        mean_loss, norm, embedding_norm, logit, stop = torch.stack(
            [number.detach().float().reshape(()) for number in numbers]
        ).tolist()
        applied = math.isfinite(norm) and norm <= norm_limit
        result = StepResult(mean_loss, norm, embedding_norm, logit, applied=applied, stop_wanted=bool(stop))
        if result.applied and not result.is_finite:
            raise FloatingPointError(f"loss {result.loss} with a gradient norm of {norm}")
        self.updates += result.applied
        return result

    def _set_batch_size(self, batch_size: int) -> None:
        """Set the number of micro-batches, which DeepSpeed uses for the pipeline's schedule and for the means over
        micro-batches of the loss and of the gradients."""
        size = batch_size * self.topology.context  # DeepSpeed counts a sample once for each rank that has a part of it
        if size != self._engine.train_batch_size():
            self._engine.set_train_batch_size(size)
            assert self._engine.micro_batches == self.config.accumulation_steps(self.topology.data, batch_size)

    def _own_tokens(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        return (own_tokens(batch, self._tensor_parallel.context) for batch in batches)

    def evaluate(self, batches: Iterator[Batch], micro_batches: int) -> float:
        """Mean loss in nats over `micro_batches` micro-batches of each data rank, the same on every rank."""
        return float(self._engine.eval_batch(self._own_tokens(batches), num_micro_batches=micro_batches))

    def score(self, batches: Iterator[Batch], micro_batches: int, rows: int) -> torch.Tensor:
        """Scores of rows of tokens, see `row_scores`: fp64 [data ranks, micro-batches, 2, rows] on the host, the same
        on every rank. Collective.

        Args:
            batches: micro-batches of this data rank, of one shape, see `pretrain.evaluation.rows.micro_batches`.
            micro_batches: their number.
            rows: rows of a micro-batch.
        """
        scores = torch.zeros(self.topology.data, micro_batches, 2, rows, dtype=torch.float64, device=local_device())
        loss = self._pipeline.loss_fn
        self._pipeline.loss_fn = self._row_scores
        self._begin_other_shapes()
        try:
            own = self._engine.eval_batch(
                self._own_tokens(batches), reduce_output=None, bcast_loss=False, num_micro_batches=micro_batches
            )
        finally:
            self._pipeline.loss_fn = loss
        self._begin_other_shapes()
        # The last stage; its tensor ranks have the same, and its context ranks the tokens of a part of each row.
        if own is not None and self.coordinate.tensor == 0:
            scores[self.coordinate.data] = torch.stack(own)
        dist.all_reduce(scores)
        return scores.cpu()

    def _row_scores(self, head: HeadFactors, labels: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        targets_BS, is_scored_BS = labels
        return row_scores(
            head.x_SBD,
            head.weight_VD,
            targets_BS.T,
            is_scored_BS.T,
            self._tensor_parallel.group,
            self.config.model.vocabulary_size,
            self.config.model.logit_soft_cap,
        )

    def _begin_other_shapes(self) -> None:
        """Let the stages exchange the shapes of activations again, and DeepSpeed's sum of losses begin anew."""
        self._engine.reset_activation_shape()
        self._engine.total_loss = None

    def gradients(self) -> dict[str, torch.Tensor]:
        """This rank's shards of the accumulated and averaged gradients, fp32, before clipping.

        Valid only between backward and update, in a hook: see `before_update`. Collective.
        """
        return {name: safe_get_full_grad(parameter) for name, parameter in self._trained.items()}

    def before_update(self, hook: Any) -> None:
        """Call `hook()` in each step, after the gradients are reduced and before they are clipped and applied."""
        update = self._engine.optimizer.step

        def hooked(*arguments: Any, **settings: Any) -> Any:
            hook()
            return update(*arguments, **settings)

        self._engine.optimizer.step = hooked

    def time_passes(self, around: Callable[[Callable[..., None]], Callable[..., None]]) -> None:
        """Wrap the forward and the backward pass of a micro-batch in `around`."""
        self._instead_of((ForwardPass, BackwardPass), around)

    def around_instructions(self, around: Callable[[str, Callable[..., None]], Callable[..., None]]) -> None:
        """Wrap the function of every instruction of the schedule in `around(name, function)`; the names are those of
        DeepSpeed's classes."""
        functions = self._engine._INSTRUCTION_MAP
        self._engine._INSTRUCTION_MAP = {kind: around(kind.__name__, function) for kind, function in functions.items()}

    def _instead_of(
        self, instructions: Sequence[type], around: Callable[[Callable[..., None]], Callable[..., None]]
    ) -> None:
        """Wrap the functions of some instructions of DeepSpeed's schedule in `around`."""
        functions = self._engine._INSTRUCTION_MAP  # a class attribute; the instance gets its own
        self._engine._INSTRUCTION_MAP = {
            kind: around(function) if kind in instructions else function for kind, function in functions.items()
        }

    def _after_partial_gradients(self, reduce: Callable[..., None]) -> Callable[..., None]:
        """`reduce`, the first reduction after a step's last backward pass, after partial gradients are summed."""
        gradient = "_hp_grad" if isinstance(self._engine.optimizer, BF16_Optimizer) else "grad"

        def reduced(*arguments: Any, **settings: Any) -> None:
            self._tensor_parallel.sum_partial_gradients(
                [getattr(weight, gradient) for weight in self.partial_parameters]
            )
            reduce(*arguments, **settings)
            if self.topology.replicas > 2:
                self._average_tied_gradients(gradient)

        return reduced

    def _average_tied_gradients(self, name: str) -> None:
        """Average the gradients of tied weights over the replicas, each alone, so that all stages add in one order.

        In the buffers of DeepSpeed's sum they lie at other places on each stage, and more than two numbers would be
        added in other orders: the copies would drift apart by rounding. That sum then averages equal numbers.
        """
        group = self._engine.mpu.get_data_parallel_group()
        for weight, _ in self._pipeline.get_tied_weights_and_groups():
            gradient = getattr(weight, name)
            dist.all_reduce(gradient, group=group)
            gradient.div_(self.topology.replicas)

    def parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """(global name, this rank's shard) of every parameter of this stage, in the precision of the forward pass."""
        yield from self._parameters.items()

    def trained_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """Those of `parameters` that are trained."""
        yield from self._trained.items()

    def modules(self) -> Iterator[torch.nn.Module]:
        """Modules of this stage."""
        yield from self._pipeline.modules()

    def frozen_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """Those of `parameters` that are not trained."""
        yield from ((name, parameter) for name, parameter in self._parameters.items() if name not in self._trained)

    def fragments(self) -> Iterator[Fragment]:
        """Fragments that this rank saves, or fills when a checkpoint is loaded.

        Together the ranks' fragments cover each trained parameter once per tensor rank. Those of unsharded parameters
        are the same on every tensor rank, and those of tied parameters on every stage that uses them.
        """
        optimizer = self._engine.optimizer
        for name, parameter in self._trained.items():
            mapping = parameter._hp_mapping  # type: ignore[attr-defined]
            if mapping is None:  # ZeRO-1 assigned all of it to other replicas
                continue
            address = mapping.lp_fragment_address
            flat = optimizer.param_groups[mapping.param_group_index]["params"][0]
            inside = mapping.hp_fragment_address
            states = {"weight": mapping.hp_fragment.detach()}
            for key, values in self._moments(flat, optimizer.param_groups[mapping.param_group_index]).items():
                if key != "step":
                    states[key] = values.narrow(0, inside.start, inside.numel)
            yield Fragment(
                name,
                self.whole_shape(parameter),
                partition_of(parameter),
                address.start,
                address.start + address.numel,
                states,
                is_copy=bool(parameter.ds_pipe_replicated),  # type: ignore[attr-defined]
            )

    def _moments(self, flat: torch.Tensor, group: dict[str, Any]) -> dict[str, torch.Tensor]:
        """The optimizer's state of one flat partition; before the first step it is created as the optimizer would."""
        state: dict[str, torch.Tensor] = self._engine.optimizer.optimizer.state[flat]
        if not state:
            state.update(first_state(flat, group))
        return state

    def restored(self, updates: int) -> None:
        """Finish a load: set the optimizer's step counter, and copy the master weights to the model."""
        optimizer = self._engine.optimizer
        for group in optimizer.param_groups:
            for flat in group["params"]:
                state = self._moments(flat, group)
                if "step" in state:
                    state["step"].fill_(float(updates))
        optimizer.update_lp_params()
        self._engine.global_steps = self.updates = updates

"""Code run by the processes of the distributed tests: train a tiny model and return whole tensors by name."""

from __future__ import annotations

import copy
import gc
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from pytest import MonkeyPatch

from foundation.configuration import flat_settings, load_config
from pretrain.checkpoint.load import load_checkpoint
from pretrain.checkpoint.read import BY_TOKEN
from pretrain.checkpoint.save import CheckpointWriter
from pretrain.checkpoint.start import newest_whole
from pretrain.config import TrainConfig
from pretrain.data.loader import SampleReader
from pretrain.data.objective import Batch, Objective, Windows
from pretrain.device import use_fixed_order
from pretrain.engine.engine import Engine
from pretrain.engine.processes import join_processes
from pretrain.model.init import whole_weight
from pretrain.model.partition import partition_of
from pretrain.monitor.replicas import ReplicaDriftError, check_replicas
from pretrain.topology import Topology
from pretrain.train import train as train_run

END_OF_DOCUMENT = 2


def tiny_config(**changes: Any) -> TrainConfig:
    """Four layers, two groups of key/value heads, a padded vocabulary, and a clipping threshold that is exceeded."""
    settings: dict[str, Any] = {
        "output": "unused",
        "seed": 7,
        "model": {
            "vocabulary_size": 250,
            "hidden_size": 32,
            "layers": 4,
            "attention_heads": 4,
            "key_value_heads": 2,
            "feed_forward_size": 64,
            "maximum_positions": 64,
        },
        "data": {"mixture": "unused", "sequence_length": 24},
        "batch": {"global_batch_size": 8, "micro_batch_size": 2},
        # LLaMA 2's epsilon: at 1e-8 the first update of AdamW magnifies rounding where a gradient is next to nothing
        "optimizer": {"learning_rate": 1e-3, "epsilon": 1e-5, "gradient_clipping": 0.5},
        "schedule": {"total_steps": 20, "warmup_steps": 2},
        "precision": "fp32",
    }
    for path, value in changes.items():
        *folders, key = path.split("__")
        place = settings
        for folder in folders:
            place = place.setdefault(folder, {})
        place[key] = value
    return TrainConfig.model_validate(settings)


def random_batches(config: TrainConfig, topology: Topology, data_rank: int, first_step: int = 0) -> Iterator[Batch]:
    """Micro-batches of this data rank; the global batch of a step is the same under every topology."""
    batch, length = config.batch, config.data.sequence_length
    step = first_step
    two_dimensional, dropout = config.model.positions == "learned_2d", config.has_dropout
    objective = Objective(config.objective, config.seed, two_dimensional=two_dimensional, dropout=dropout)
    size = batch.global_batch_size
    while True:
        generator = torch.Generator().manual_seed(1000 + step)
        tokens = torch.randint(0, config.model.vocabulary_size, (size, length + 1), generator=generator).numpy()
        opens = None
        if config.objective.separate_documents:
            tokens[tokens % 7 == 0] = END_OF_DOCUMENT
            opens = tokens[:, :-1] == END_OF_DOCUMENT
        numbers = size * step + np.arange(size)
        total = None
        if not objective.is_causal:
            total = objective.batch(Windows(tokens, numbers))[1][1].sum()
        for row in np.arange(size).reshape(-1, topology.data, batch.micro_batch_size)[:, data_rank]:
            windows = Windows(tokens[row], numbers[row], opens=None if opens is None else opens[row])
            inputs, labels = objective.batch(windows)
            yield inputs, labels if total is None else (labels[0], (labels[1] * size / total).float())
        step += 1


def whole(engine: Engine, shards: dict[str, torch.Tensor]) -> dict[str, np.ndarray] | None:
    """Every parameter-shaped tensor of the model, gathered from all ranks; on rank 0."""
    mine = []
    parameters = dict(engine.parameters())
    for name, shard in shards.items():
        partition = partition_of(parameters[name])
        mine.append((name, engine.coordinate.tensor, engine.coordinate.data, partition, shard.detach().float().numpy()))
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, mine)
    if engine.rank != 0:
        return None
    by_name: dict[str, dict[int, Any]] = {}
    partitions = {}
    for entries in gathered:
        for name, tensor_rank, data_rank, partition, array in entries:
            partitions[name] = partition
            seen = by_name.setdefault(name, {})
            if tensor_rank in seen:
                np.testing.assert_array_equal(
                    seen[tensor_rank], array, err_msg=f"{name}: data rank {data_rank} differs"
                )
            seen[tensor_rank] = array
    result = {}
    for name, by_rank in by_name.items():
        arrays = [torch.from_numpy(by_rank[rank]) for rank in sorted(by_rank)]
        if partitions[name] is None:
            for array in arrays:
                torch.testing.assert_close(array, arrays[0], rtol=0, atol=0, msg=f"{name} differs over the tensor axis")
            result[name] = arrays[0].numpy()
        else:
            result[name] = partitions[name].merge(arrays).numpy()
        if name in BY_TOKEN:  # padding depends on the tensor degree
            result[name] = result[name][: engine.config.model.vocabulary_size]
    return result


def masters(engine: Engine) -> dict[str, np.ndarray] | None:
    """The fp32 weights that the optimizer updates, gathered from all ranks; on rank 0."""
    mine = [
        (f.name, f.shape, f.partition, engine.coordinate.tensor, f.start, f.states["weight"].cpu().numpy())
        for f in engine.fragments()
    ]
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, mine)
    if engine.rank != 0:
        return None
    shards: dict[str, dict[int, np.ndarray]] = {}
    facts = {}
    degree = engine.topology.tensor
    for name, shape, partition, tensor_rank, start, values in (entry for part in gathered for entry in part):
        local = shape if partition is None else partition.shard_shape(shape, tensor_rank, degree)
        facts.setdefault(name, (partition, {}))[1][tensor_rank] = local
        flat = shards.setdefault(name, {}).setdefault(tensor_rank, np.full(int(np.prod(local)), np.nan, np.float32))
        flat[start : start + len(values)] = values
    result = {}
    for name, by_rank in shards.items():
        partition, local = facts[name]
        arrays = [torch.from_numpy(by_rank[rank].reshape(local[rank])) for rank in range(degree)]
        result[name] = (arrays[0] if partition is None else partition.merge(arrays)).numpy()
        if name in BY_TOKEN:
            result[name] = result[name][: engine.config.model.vocabulary_size]
        assert np.isfinite(result[name]).all(), f"{name}: a part is on no rank"
    return result


def _with_whole_weights(batch: Batch, context: Any) -> Batch:
    from pretrain.engine.own_tokens import own_tokens

    inputs, (targets, weights) = own_tokens(batch, context)
    return inputs, (targets, weights / context.degree)


def put_in(fault: str) -> None:
    """Plant a fault in this process, to see that a test notices it."""
    import pretrain.engine.engine as engine
    import pretrain.engine.library as library
    import pretrain.model.linear as linear
    from pretrain.model.partition import mark_sharded

    if fault == "norm counts shards once":

        def unmarked(parameter: torch.nn.Parameter, dim: int, blocks: tuple[int, ...]) -> None:
            mark_sharded(parameter, dim, blocks)
            parameter.tensor_model_parallel = False  # type: ignore[attr-defined]

        import pretrain.model.adapter as adapter

        vars(linear)["mark_sharded"] = vars(adapter)["mark_sharded"] = unmarked
    elif fault == "no sum over the tensor axis":
        import megatron.core.tensor_parallel.layers as layers

        layers.reduce_from_tensor_model_parallel_region = lambda x, group: x
    elif fault == "weights depend on the rank":
        vars(engine)["whole_weight"] = lambda name, shape, seed, model: whole_weight(
            name, shape, seed + dist.get_rank(), model
        )
    elif fault == "data ranks read the same samples":
        global random_batches
        right = random_batches
        random_batches = lambda config, topology, data_rank, first_step=0: right(config, topology, 0, first_step)  # noqa: E731
    elif fault == "tied gradients are not summed":
        library.PipelineModule.get_tied_weights_and_groups = lambda self: []
    elif fault == "tied weights count on each stage":
        index_tied_modules = library.PipelineModule._index_tied_modules

        def counted_twice(pipeline: Any) -> Any:
            found = index_tied_modules(pipeline)
            for module in pipeline.tied_modules.values():
                for parameter in module.parameters():
                    parameter.ds_pipe_replicated = False
            return found

        library.PipelineModule._index_tied_modules = counted_twice
    elif fault == "shared heads learn from one rank":
        import pretrain.model.attention as attention

        vars(attention)["GatherShared"].backward = staticmethod(
            lambda ctx, gradient: (gradient.chunk(ctx.group.size(), dim=-1)[ctx.group.rank()], None, None)
        )
    elif fault == "gradients of gathered keys stay with their queries":
        import pretrain.model.context as context

        vars(context)["scattered"] = lambda x, group: x.chunk(group.size())[group.rank()].clone()
    elif fault == "tokens are taken for the first ones":
        import pretrain.model.context as context

        context.ContextParallel.places = lambda self, length, device: torch.arange(length, device=device)  # type: ignore[method-assign]
    elif fault == "weights of targets are those of whole samples":
        vars(engine)["own_tokens"] = _with_whole_weights
    elif fault == "masks depend on the tensor rank":
        import pretrain.model.block as block

        drop_hidden = block.drop_hidden
        vars(block)["drop_hidden"] = lambda x, rate, keys, site, first: drop_hidden(
            x, rate, keys + dist.get_rank(), site, first
        )
    elif fault == "a recomputation draws again":
        import pretrain.model.block as block

        draws = itertools.count()
        right_drop = block.drop_hidden
        vars(block)["drop_hidden"] = lambda x, rate, keys, site, first: right_drop(
            x, rate, keys + next(draws), site, first
        )
    elif fault == "ranks smooth over their own vocabulary":
        import pretrain.model.head_loss as head_loss

        all_reduce = dist.all_reduce

        def not_the_sum(tensor: torch.Tensor, *arguments: Any, **named: Any) -> Any:
            kept = tensor[2].clone() if tensor.ndim == 2 and len(tensor) == 3 else None
            done = all_reduce(tensor, *arguments, **named)
            if kept is not None:
                tensor[2] = kept
            return done

        vars(head_loss)["dist"] = SimpleNamespace(**{**vars(dist), "all_reduce": not_the_sum})
    elif fault == "norms of all heads see one rank's":
        import pretrain.model.norm as norm

        vars(norm)["Sum"] = SimpleNamespace(apply=lambda x, group: x * group.size())
    elif fault == "the sum's gradient is one rank's":
        import pretrain.model.norm as norm

        vars(norm)["SumGradients"] = SimpleNamespace(apply=lambda x, group: x)
    elif fault == "adapters of split inputs are not summed":
        import pretrain.model.adapter as adapter

        vars(adapter)["summed_output"] = lambda low, group, sequence: low
    elif fault == "gradients of adapters of split outputs are not summed":
        import pretrain.model.adapter as adapter

        vars(adapter)["whole_input"] = lambda low, group, sequence: low
    elif fault == "adapters' masks depend on the tensor rank":
        import pretrain.model.adapter as adapter

        drop = adapter.drop_hidden
        vars(adapter)["drop_hidden"] = lambda x, rate, keys, *place: drop(x, rate, keys + dist.get_rank(), *place)
    elif fault == "each rank masks its inputs as the first ones":
        import pretrain.model.adapter as adapter

        drop = adapter.drop_hidden
        vars(adapter)["drop_hidden"] = lambda x, rate, keys, site, first, column, columns: drop(
            x, rate, keys, site, first, 0, columns
        )
    elif fault == "frozen weights are tied":
        from pretrain.engine.pipeline_module import Pipeline

        del Pipeline.get_tied_weights_and_groups
    elif fault == "partial gradients are not summed":
        linear.TensorParallel.sum_partial_gradients = lambda self, parameters: None  # type: ignore[method-assign]
    elif fault:
        raise AssertionError(f"unknown fault {fault!r}")


def train(config: TrainConfig, topology: Topology, steps: int, fault: str = "") -> dict[str, Any]:
    """Train from the initial weights; losses, norms, and on rank 0 whole first gradients and weights."""
    return train_many([config], topology, steps, fault)[0]


def train_in_fixed_order(config: TrainConfig, topology: Topology, steps: int) -> dict[str, Any]:
    """`train` with the settings of `deterministic: true`."""
    use_fixed_order()
    assert torch.are_deterministic_algorithms_enabled()
    return train(config, topology, steps)


def train_many(configs: Sequence[TrainConfig], topology: Topology, steps: int, fault: str = "") -> list[dict[str, Any]]:
    """`train` several times in the same processes, which take longer to start than a tiny model takes to train."""
    join_processes(timeout_seconds=300)
    put_in(fault)
    results = []
    for config in configs:
        results.append(_train(Engine(config, topology), steps))
        _forget_groups()
    return results


def liven_adapters(engine: Engine) -> None:
    """Give each adapter a B that is not zero: with zeros, A has no gradient."""
    for fragment in engine.fragments():
        if fragment.name.endswith(".lora.b"):
            whole = 0.1 * whole_weight(f"{fragment.name} of a test", fragment.shape, 1, engine.config.model)
            if fragment.partition is not None:
                whole = fragment.partition.shard(whole, engine.coordinate.tensor, engine.topology.tensor)
            fragment.states["weight"].copy_(whole.reshape(-1)[fragment.start : fragment.stop])
    engine.restored(0)


def _train(engine: Engine, steps: int) -> dict[str, Any]:
    config, topology = engine.config, engine.topology
    if config.adapter is not None:
        liven_adapters(engine)
    frozen = {name: parameter.detach().clone() for name, parameter in engine.frozen_parameters()}
    first_gradients: dict[str, torch.Tensor] = {}

    def keep_first() -> None:
        if not first_gradients:
            first_gradients.update(engine.gradients())

    engine.before_update(keep_first)
    initial = whole(engine, dict(engine.parameters()))
    initial_masters = masters(engine)
    batches = random_batches(config, topology, engine.coordinate.data)
    results = [engine.train_step(batches, config.optimizer.learning_rate)]
    after_one = masters(engine)
    results += [engine.train_step(batches, config.optimizer.learning_rate) for _ in range(steps - 1)]
    held_out = random_batches(config, topology, engine.coordinate.data, first_step=500)
    evaluation = engine.evaluate(held_out, config.accumulation_steps(topology.data))
    for name, parameter in engine.frozen_parameters():
        assert parameter.grad is None and torch.equal(parameter, frozen[name]), f"{name} is not frozen"
    update = None
    if initial_masters is not None and after_one is not None:
        update = {name: after_one[name] - before for name, before in initial_masters.items()}
    return {
        "loss": [result.loss for result in results],
        "gradient_norm": [result.gradient_norm for result in results],
        "largest_logit": [result.largest_logit for result in results],
        "evaluation": evaluation,
        "initial": initial,
        "gradients": whole(engine, first_gradients),
        "update": update,
        "weights": masters(engine),
    }


def _forget_groups() -> None:
    """Close the process groups of a discarded engine: each holds threads and sockets."""
    gc.collect()
    for group in list(dist.distributed_c10d._world.pg_map):
        if group is not dist.group.WORLD:
            dist.destroy_process_group(group)


def timeouts_of_groups(config: TrainConfig, topology: Topology, timeout_seconds: int) -> list[float]:
    """Timeout of every process group of a run that this process belongs to, in seconds, in the order of creation."""
    join_processes(timeout_seconds)
    engine = Engine(config, topology)
    CheckpointWriter(engine, Path("unused"))
    backends = [group._get_backend(torch.device("cpu")) for group in dist.distributed_c10d._world.pg_map]
    return [backend.options._timeout.total_seconds() for backend in backends]


def kept_by_a_step(config: TrainConfig, topology: Topology) -> dict[str, Any]:
    """Train two steps; numbers of bf16 gradients that are left after each backward pass, bytes of state for each
    weight, and of DeepSpeed's timings that are kept."""
    join_processes(timeout_seconds=300)
    engine = Engine(config, topology)
    left = []

    def counted(function: Any) -> Any:
        def run(*arguments: Any, **settings: Any) -> Any:
            result = function(*arguments, **settings)
            left.append(sum(parameter.grad is not None for _, parameter in engine.parameters()))
            return result

        return run

    engine.time_passes(counted)
    batches = random_batches(config, topology, engine.coordinate.data)
    for _ in range(2):
        engine.train_step(batches, 1e-3)
    optimizer = engine._engine.optimizer
    state = [*optimizer.bf16_groups_flat, *optimizer.fp32_groups_gradients_flat, *optimizer.fp32_groups_flat_partition]
    state += [moments[name] for moments in optimizer.optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    weights = sum(parameter.numel() for _, parameter in engine.parameters())
    timings = getattr(engine._engine.timers("train_batch"), "event_timers", [])
    throughput = engine._engine.tput_timer
    return {
        "bf16 gradients": left,
        "bytes": sum(part.numel() * part.element_size() for part in state) / weights,
        "timings": len(timings) + throughput.global_step_count,
    }


FACTS: dict[str, Any] = {"data_digest": "none", "versions": {}}


def drifted(topology: Topology, name: str) -> str:
    """Train a step, change the last bits of one weight on the last rank, and return what the check reports."""
    join_processes(timeout_seconds=300)
    config = tiny_config(precision="bf16", model__tied_embedding=topology.pipe > 1)
    engine = Engine(config, topology)
    engine.train_step(random_batches(config, topology, engine.coordinate.data), 1e-3)
    parameters = dict(engine.parameters())
    if engine.rank == topology.world_size - 1 and name:
        with torch.no_grad():
            parameters[name].view(-1)[0] *= 1.01
    try:
        check_replicas(parameters.items(), engine.coordinate.tensor, step=7)
    except ReplicaDriftError as error:
        return str(error)
    return ""


def lost_keys(precision: str) -> list[str]:
    """Keys of the DeepSpeed dictionary whose loss the engine's own check does not notice."""
    import pretrain.engine.settings_check as module
    from pretrain.engine.deepspeed_config import deepspeed_config

    join_processes(timeout_seconds=300)
    config, topology = tiny_config(precision=precision), Topology(1, 1, 1)
    engine = Engine(config, topology)
    asked = deepspeed_config(config, topology)
    unnoticed = []
    for lost in [*flat_settings(asked), "weight decay"]:
        *groups, key = lost.split(".")

        def changed(*arguments: Any, groups: list[str] = groups, key: str = key) -> dict[str, Any]:
            other = copy.deepcopy(asked)
            place = other
            for group in groups:
                place = place[group]
            place[key] = "something else"
            return other

        if lost == "weight decay":
            engine._engine.optimizer.optimizer.param_groups[1]["weight_decay"] = 0.1
        else:
            vars(module)["deepspeed_config"] = changed
        try:
            module.check_settings(engine._engine, config, topology, engine._parameter_groups())
            unnoticed.append(lost)
        except RuntimeError as error:
            if lost not in str(error):
                unnoticed.append(f"{lost}: {error}")
        vars(module)["deepspeed_config"] = deepspeed_config
    return unnoticed


def refused_starts(config: str) -> dict[str, str]:
    """What start-up reports when the last rank was given something different, by what differs."""
    import pretrain.train as module

    rank, last = dist.get_rank(), dist.get_world_size() - 1
    said = {}
    for what, (place, name, other) in {
        "configuration": (None, "seed", 99),
        "token files or sample order": (SampleReader, "digest", lambda reader, **_: "other tokens"),
        "library versions": (module, "versions", lambda: {"torch": "another one"}),
        "program code": (module, "code_digest", lambda: "other code"),
    }.items():
        overrides = [f"{name}={other}"] if place is None and rank == last else []
        loaded = load_config(TrainConfig, Path(config), overrides)
        with MonkeyPatch.context() as patch:
            if place is not None and rank == last:
                patch.setattr(place, name, other)
            try:
                module.train(loaded)
                said[what] = "trained"
            except ValueError as error:
                said[what] = str(error)
    return said


def train_command(config: str, overrides: Sequence[str]) -> None:
    """Run `python -m pretrain` in a process whose environment is already set up."""
    train_run(load_config(TrainConfig, Path(config), overrides))


def newest_step(folder: str) -> tuple[int | None, list[str]]:
    """Step of the newest complete checkpoint, and what is reported about newer ones."""
    reader, notes = newest_whole(Path(folder))
    return None if reader is None else reader.step, notes


def train_in_parts(
    config: TrainConfig, topology: Topology, folder: str, first: int, last: int, fault: str = "", rate: float = 0.0
) -> dict[str, Any]:
    """Take up the newest checkpoint of the folder if there is one, train to step `last`, save; at a learning rate that
    rises from step to step, unless one is given."""
    join_processes(timeout_seconds=300)
    engine = Engine(config, topology)
    checkpoints = Path(folder)
    reader, _ = newest_whole(checkpoints)
    step = 0
    if reader is not None:
        load_checkpoint(engine, reader)
        step = reader.step
        if fault == "moments forgotten":
            for fragment in engine.fragments():
                fragment.states["exp_avg"].zero_()
    assert step == first
    restored = whole(engine, dict(engine.parameters()))
    batches = random_batches(config, topology, engine.coordinate.data, first_step=step)
    losses = []
    for number in range(step, last):
        losses.append(engine.train_step(batches, rate or 1e-3 * (number + 1)).loss)
    facts = {**FACTS, "config": config.model_dump(mode="json")}
    writer = CheckpointWriter(engine, checkpoints)
    writer.save(last, last * config.batch.global_batch_size, facts)
    writer.wait()
    return {"loss": losses, "restored": restored, "weights": whole(engine, dict(engine.parameters()))}


def shared_masters(precision: str, topology: Topology) -> list[bool]:
    """Whether each master weight on this rank still shares its memory with the weight after a step."""
    join_processes(timeout_seconds=600)
    config = tiny_config(precision=precision, parallel__data=topology.data)
    engine = Engine(config, topology)
    engine.train_step(random_batches(config, topology, engine.coordinate.data), 1e-3)
    weights = dict(engine.parameters())
    return [
        fragment.states["weight"].data_ptr() == weights[fragment.name].detach().view(-1)[fragment.start :].data_ptr()
        for fragment in engine.fragments()
    ]


def head_gradient(precision: str) -> np.ndarray:
    """Gradient of the head's weight in the first step, in one process."""
    join_processes(timeout_seconds=300)
    config, topology = tiny_config(precision=precision), Topology(1, 1, 1)
    engine = Engine(config, topology)
    found: list[torch.Tensor] = []
    engine.before_update(lambda: found.append(engine.gradients()["head.weight"].float().clone()))
    engine.train_step(random_batches(config, topology, 0), 1e-3)
    return found[0].numpy()

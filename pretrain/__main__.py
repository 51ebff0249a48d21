"""Command line: `deepspeed --module pretrain --config FILE`, `torchrun -m pretrain`, or `python -m pretrain`."""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
import warnings
from pathlib import Path

from foundation.atomic_files import restrict_file_modes
from foundation.configuration import load_config
from foundation.terminal import outlast_terminal
from pretrain.config import TrainConfig
from pretrain.launch.environment import prepare_environment, require_launcher_variables
from pretrain.launch.exit_codes import ExitCode
from pretrain.launch.launcher import stop_with_launcher

EXAMPLES = """examples:
  one process:          python -m pretrain --config configs/train/demo.yaml \\
                            parallel.tensor=1 parallel.pipeline=1 parallel.data=1
  eight, one machine:   deepspeed --num_gpus 8 --module pretrain --config configs/train/demo.yaml
  with torchrun:        torchrun --nproc-per-node 8 -m pretrain --config configs/train/demo.yaml
  only check:           torchrun --nproc-per-node 8 -m pretrain --config configs/train/demo.yaml --check
  stop half-way:        … stop_after_step=100        (without it, the same command continues from the checkpoint)

Run again with the same output folder, it continues from the newest whole checkpoint, also with other degrees.

stop a run: Ctrl-C, a closed terminal, SIGUSR1, SIGTERM, or a file `stop` in the output folder; the run finishes its
  step and saves first

exit codes: 0 done; 2 and 3 need a person (2: settings, data or checkpoint do not fit; 3: results cannot be trusted);
  75 run again (time is up, a process or node was lost or hung); 76 run again without the nodes in
  excluded_nodes.txt; 130 ended by a person. On a Slurm cluster slurm/pretrain.sbatch acts on them."""


def make_parser(*, add_help: bool = True) -> argparse.ArgumentParser:
    """Parser of the command line; without `--help` for a parser that includes this one."""
    parser = argparse.ArgumentParser(
        prog="pretrain",
        description="Train a model from token files.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=add_help,
    )
    parser.add_argument("--config", type=Path, required=True, help="YAML file, see configs/train/")
    parser.add_argument("--show", metavar="SETTING", help="print one setting, such as output, and exit")
    parser.add_argument(
        "--check", action="store_true", help="only prove that these processes compute what one computes, see `check`"
    )
    parser.add_argument("overrides", nargs="*", help="settings by dotted name, such as parallel.tensor=2")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher passes it
    return parser


def main() -> int:
    """Run the command line; returns an `ExitCode`."""
    arguments = make_parser().parse_intermixed_args()
    # Warnings of torch, DeepSpeed and megatron-core for their own developers, from every process.
    warnings.filterwarnings("ignore", module=r"(torch|deepspeed|megatron)\.")
    restrict_file_modes()
    outlast_terminal()
    for signal_number in (signal.SIGUSR1, signal.SIGTERM):
        # Until training begins and installs its own handlers, there is nothing to save.
        signal.signal(signal_number, lambda *_: os._exit(ExitCode.REQUEUE))
    stop_with_launcher()
    rank = os.environ.get("RANK") or os.environ.get("SLURM_PROCID", "0")
    try:
        config = load_config(TrainConfig, arguments.config, arguments.overrides)
        if arguments.show is not None:
            print(setting(config, arguments.show))
            return ExitCode.DONE
        require_launcher_variables()
        prepare_environment(deterministic=config.deterministic)
    except ValueError as error:
        if rank == "0":
            print(f"pretrain: {error}", file=sys.stderr)
        return ExitCode.REFUSED
    return _train(config, rank, only_check=arguments.check)


def _train(config: TrainConfig, rank: str, *, only_check: bool) -> int:
    # Only once the settings are valid, because importing torch takes seconds; and once the environment is complete.
    # Nothing of what is imported becomes garbage: searching it costs a second here, and again in each later collection.
    gc.disable()
    from pretrain.device import NO_FIXED_ORDER_SIGNS
    from pretrain.launch.node_check import NodeError, exclude_nodes, is_broken_device, is_shared_device
    from pretrain.launch.out_of_memory import explanation, is_out_of_memory, leave_word
    from pretrain.launch.rendezvous import node_name
    from pretrain.launch.stopping import is_lost_peer, leave
    from pretrain.monitor.replicas import ReplicaDriftError
    from pretrain.train import check_parallelism, train

    gc.freeze()
    gc.enable()

    def report(error: Exception, *, every_rank: bool = False) -> None:
        if every_rank or rank == "0":
            print(f"pretrain: {f'rank {rank} on {node_name()}: ' if every_rank else ''}{error}", file=sys.stderr)

    try:
        code = check_parallelism(config) if only_check else train(config)
    except NodeError as error:
        report(error, every_rank=True)
        if rank == "0" or node_name() in error.nodes:
            exclude_nodes(config.output, error)
        code = ExitCode.EXCLUDE_NODE
    except (ValueError, RuntimeError, ArithmeticError) as error:
        if is_broken_device(error):
            exclude_nodes(config.output, NodeError([node_name()], str(error).splitlines()[0]))
            report(error, every_rank=True)
            code = ExitCode.EXCLUDE_NODE
        elif is_out_of_memory(error):
            full = RuntimeError(explanation(error, config))
            report(full, every_rank=True)
            leave_word(config.output, f"rank {rank} on {node_name()}: {full}")
            code = ExitCode.REFUSED
        elif is_shared_device(error):
            shared = RuntimeError("several processes of this node use the same GPU: start one for each visible GPU")
            report(shared, every_rank=True)
            code = ExitCode.REFUSED
        elif any(sign in str(error) for sign in NO_FIXED_ORDER_SIGNS):
            report(ValueError(f"deterministic: {str(error).splitlines()[0]} Set deterministic=false for this model"))
            code = ExitCode.REFUSED
        elif is_lost_peer(error):
            report(error, every_rank=True)
            code = ExitCode.REQUEUE
        elif isinstance(error, (ArithmeticError, ReplicaDriftError)):
            report(error)
            code = ExitCode.UNTRUSTED
        elif isinstance(error, ValueError):
            report(error)
            code = ExitCode.REFUSED
        else:
            raise
    if code != ExitCode.DONE:
        leave(code)
    return code


def setting(config: TrainConfig, name: str) -> object:
    """Value of the setting with a dotted name. Raises ValueError for an unknown name."""
    value: object = config
    for part in name.split("."):
        if part not in getattr(type(value), "model_fields", {}):
            raise ValueError(f"--show {name}: no setting has this name")
        value = getattr(value, part)
    return value


if __name__ == "__main__":
    sys.exit(main())

"""What the exit code of a training process says, to a person and to `slurm/pretrain.sbatch`."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """One decision each. Slurm and the deepspeed launcher hand the code of a failed process on; torchrun says 1."""

    DONE = 0
    """All steps are done, or as many as `stop_after_step` says."""
    REFUSED = 2
    """Stop and look: settings, data or a checkpoint do not fit; the message says which. Also: a node's memory
    is short from the first step on, or the disk is full; what can be saved is."""
    UNTRUSTED = 3
    """Stop and look: the numbers cannot be trusted any more (NaN, a spike that nothing helped against, weights that
    drifted apart)."""
    REQUEUE = 75
    """Start the same command again: saved because the time is up, or a process or its node was lost or hung. It is
    EX_TEMPFAIL of BSD's sysexits.h."""
    EXCLUDE_NODE = 76
    """The same, but not on the nodes that `excluded_nodes.txt` in the run's folder names: they failed the check at the
    start, or their device did."""
    ENDED = 130
    """Saved and ended because a person said so: Ctrl-C, or a stop file with the word `end`. The shell's code for
    SIGINT."""

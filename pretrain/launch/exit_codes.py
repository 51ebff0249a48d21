"""Exit codes of a training process, for a person and for `slurm/pretrain.sbatch`."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes, one for each decision. Slurm and the deepspeed launcher pass on the code of a failed process;
    torchrun exits with 1."""

    DONE = 0
    """All steps are done, or those up to `stop_after_step`."""
    REFUSED = 2
    """Needs a person: settings, data or a checkpoint do not fit; the message says which. Also when a node's memory is
    short from the first step on, or the disk is full; whatever can be saved is saved. Also when a GPU's memory is
    full; then the run's `stop_and_look.txt` says what to change."""
    UNTRUSTED = 3
    """Needs a person: the results cannot be trusted any more (NaN, a loss spike that no automatic answer has helped,
    replicated weights that differ)."""
    REQUEUE = 75
    """Run the same command again: the time was up and the run has saved, or a process or its node was lost or hung.
    EX_TEMPFAIL of BSD's sysexits.h."""
    EXCLUDE_NODE = 76
    """Run the same command again without the nodes in the run's `excluded_nodes.txt`: they failed the check at the
    start, or their device failed."""
    ENDED = 130
    """Saved and ended at a person's request: Ctrl-C, or a stop file with the word `end`. The shell's code for
    SIGINT."""

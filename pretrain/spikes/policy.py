"""The answer to a spike that does not heal. Pure: it depends on its arguments only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pretrain.spikes.detector import Verdict
from pretrain.spikes.ledger import Entry, rollbacks
from pretrain.spikes.settings import SpikesConfig


def decide(
    verdict: Verdict,
    step: int,
    entries: Sequence[Entry],
    healthy: Sequence[int],
    first_samples: Mapping[int, int],
    global_batch_size: int,
    settings: SpikesConfig,
) -> Entry:
    """The rollback, or the stop, that answers a persistent spike.

    The first time at a place: go back, and skip `skip_batches`. The second time: skip `longer_skip_batches`. The third
    time: the same, with a lower learning rate and a new warm-up. After that, or when `maximum_rollbacks` are used up,
        or
    without a checkpoint to go back to: stop.

    The skipped range begins `rollback_steps` before the onset, also when the checkpoint is older: earlier samples did
    no harm. It is PaLM's range, from before the spike to after it.

    Args:
        verdict: a persistent verdict.
        step: the step of the verdict.
        entries: the ledger.
        healthy: steps of the whole checkpoints that were saved outside of any spike.
        first_samples: step -> number of its first sample, for the last steps.
        global_batch_size: batch size at the onset, in samples.
    """
    assert verdict.state == "persistent" and verdict.onset is not None
    onset = verdict.onset
    done = rollbacks(entries)
    attempt = 1
    if done and abs(onset - done[-1].onset) <= settings.cooldown_steps:
        attempt = (done[-1].attempt or 0) + 1

    def entry(kind: str, reason: str, **details: object) -> Entry:
        peak = None if verdict.peak == float("inf") else verdict.peak
        seen = (first_samples[max(onset, min(first_samples))], first_samples[step] + global_batch_size)
        facts = {"step": step, "onset": onset, "peak": peak, "samples": seen, "attempt": attempt}
        return Entry.model_validate({"kind": kind, "reason": f"{verdict.reason}{reason}", **facts, **details})

    if len(done) >= settings.maximum_rollbacks:
        return entry("stop", f"; spikes.maximum_rollbacks {settings.maximum_rollbacks} are used up")
    if attempt > 3:
        return entry(
            "stop", "; skipping, skipping more and a lower learning rate have not helped here: a person must decide"
        )
    latest = max(onset - settings.rollback_steps, 0)
    targets = [checkpoint for checkpoint in healthy if checkpoint <= latest]
    if not targets:
        return entry("stop", f"; no healthy checkpoint at step {latest} or before is left to go back to")
    target = max(targets)
    begin = max(latest, target + 1, min(first_samples))
    batches = settings.skip_batches if attempt == 1 else settings.longer_skip_batches
    start = first_samples[begin]
    details: dict[str, object] = {"to_step": target, "skipped": (start, start + batches * global_batch_size)}
    if attempt == 3:
        details |= {
            "learning_rate_factor": settings.learning_rate_factor,
            "rewarm_steps": settings.rewarm_steps,
        }
    return entry("rollback", "", **details)

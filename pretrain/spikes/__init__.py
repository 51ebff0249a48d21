"""Loss spikes: found by the detector, answered by the policy, recorded in the ledger."""

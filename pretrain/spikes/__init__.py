"""Loss spikes: seen by the detector, answered by the policy, written into the ledger."""

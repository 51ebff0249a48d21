"""The parity certificate: a tiny twin of a run's model under the run's own topology, compared with one process."""

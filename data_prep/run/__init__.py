"""Runs on one or many machines: input, manifest, shards, commit records, executors."""

"""One run over many machines: input, manifest, shards, commit records, executors."""

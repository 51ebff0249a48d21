"""One file per family of models: what its weights are called elsewhere, and how many there are."""

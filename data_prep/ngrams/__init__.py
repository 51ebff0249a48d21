"""n-gram models of text for perplexity: counted, smoothed as KenLM's `lmplz` does, and written for KenLM to read."""

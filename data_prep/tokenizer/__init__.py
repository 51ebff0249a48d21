"""Text to token ids: kept documents, training of the vocabulary, encoders that agree."""

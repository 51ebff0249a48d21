"""Tokenizers: kept documents, training, reports and encoders."""

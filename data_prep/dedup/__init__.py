"""Deduplication: which documents are copies of others, with evidence for each removal."""

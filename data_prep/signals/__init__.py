"""Signals: what one pass over the text measures for the later stages."""

"""Weights of sources from small runs; `altiplano mixture`."""

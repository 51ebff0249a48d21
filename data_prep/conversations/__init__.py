"""Instruction data: forms of conversations, their cleaning, templates, splitting and packing."""

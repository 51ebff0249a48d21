"""Scaling ladders: small runs, the laws that they follow, and what these predict of a large one."""

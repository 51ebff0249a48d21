"""Monitoring: metrics, progress and speed of a run; hangs, slow nodes, resources and replicas."""

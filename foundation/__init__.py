"""Shared base of all packages: typed configuration, atomic files, progress for people."""

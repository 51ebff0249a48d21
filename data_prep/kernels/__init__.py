"""Shared parts of compiled code: compilation, unchecked loads with a checked mode, characters, counting."""

"""What compiled code shares: how it is compiled, unchecked loads with their checked mode, characters, counting."""

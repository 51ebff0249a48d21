"""Token files: the format of Megatron's `.bin/.idx` pair, its reader and its writer."""

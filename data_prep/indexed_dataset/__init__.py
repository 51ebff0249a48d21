"""Token files: Megatron's `.bin/.idx` pair, its reader, its writer, and the stage that fills it."""

"""Text in, Megatron token files out. Never imports torch."""

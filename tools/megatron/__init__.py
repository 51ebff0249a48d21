"""Checkpoints of Megatron-LM, of megatron-core and of the Megatron-DeepSpeed forks."""

"""Model families: a file for each, and its entry in the table of `registry.py`.

`BLOCK` has the settings of `ModelConfig` that `family` stands for, all but the sizes; a setting that a model file gives
itself takes precedence. `FORMAT` maps the family to Hugging Face's format. Nothing here imports torch.
"""

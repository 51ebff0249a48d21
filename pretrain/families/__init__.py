"""Model families: a file for each, and its entry in the table of `registry.py`.

`BLOCK` has the family's defaults for the settings of `ModelConfig`, all but the sizes; a setting in a model file takes
precedence. `FORMAT` maps the family to Hugging Face's format. Nothing here imports torch.
"""

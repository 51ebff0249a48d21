"""fastText models: the file format, a compiled predictor, labels."""

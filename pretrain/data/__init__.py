"""From token files to batches: mixture, sample order, objective and target weights."""

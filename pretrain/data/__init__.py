"""Which tokens make sample i: mixture, order, loader."""

"""What a run is evaluated on while it trains: held-out samples, and tasks of lm-eval."""

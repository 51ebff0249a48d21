"""What became of every document: counts, page, plots, samples, one document explained."""

"""The ledger of all documents: counts, page, plots, samples, explanations."""

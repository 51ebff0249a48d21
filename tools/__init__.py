"""Programs beside the two packages: convert, check, report."""

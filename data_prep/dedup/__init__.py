"""Which documents are copies of others, each removal with its evidence."""

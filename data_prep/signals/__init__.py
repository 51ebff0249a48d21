"""One pass over the text that measures everything the later stages decide with."""

"""Documents that are taken out of a finished run: `altiplano data remove`."""

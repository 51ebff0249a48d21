"""What a run needs before it starts: memory, time, money and energy of every layout; `altiplano plan`."""

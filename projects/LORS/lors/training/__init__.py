"""What train_net.py does beside training: hooks, schedule, overrides, errors in one line, whole files."""

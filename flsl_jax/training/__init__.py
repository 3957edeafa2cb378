"""What a training step is made of: state, optimizer, step, checkpoints, monitor, writers."""

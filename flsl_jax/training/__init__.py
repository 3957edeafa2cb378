"""What training is made of: state, forward pass, step, optimizer, evaluations, monitor, writers."""

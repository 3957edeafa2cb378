"""What training is made of: state, methods, step, optimizer, evaluations, monitor, writers."""

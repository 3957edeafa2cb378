"""Parameters to files and back."""

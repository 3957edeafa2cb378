"""Data: from records to base crops on the host, and from base crops to views on the accelerator."""

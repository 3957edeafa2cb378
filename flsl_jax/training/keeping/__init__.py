"""What keeps a run: when it stops, how it goes on, its lock and its mirror."""

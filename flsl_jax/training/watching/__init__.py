"""What is seen of a run: its metrics, alarms and traces, and where they go."""

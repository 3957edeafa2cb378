"""Pictures of models and of training runs, and the report that collects them."""

"""What would go wrong with a training here, before it is started: the machine, the config, its images, a run's checkpoints.

`python -m flsl_jax.doctor` is its command. Nothing on the disk is changed. Each kind of check is a file; what all of them
tell is a `finding.Finding`.
"""

"""`python -m flsl_jax.transfer` where torchvision has no compiled operators: `python -m tests.transfer.command --config=…`."""

import runpy

from tests.transfer import operators

if __name__ == "__main__":
    operators.install()
    runpy.run_module("flsl_jax.transfer", run_name="__main__", alter_sys=True)

"""`python -m flsl_jax …` is the command `flsl …`."""

from flsl_jax.cli import main

if __name__ == "__main__":
    main()

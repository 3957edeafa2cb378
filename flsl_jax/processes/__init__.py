"""How the processes of a run find each other, compare what they were told, and notice when one of them is gone.

Process 0 listens at the coordinator's address. Every other process keeps a connection to it, which says that both live, and
JAX's own traffic goes through a second one. So what becomes of a process is told here, in one line; JAX alone would abort.
"""

from flsl_jax.processes.connection import connected

__all__ = ["connected"]

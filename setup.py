"""Which folders are packages; all else is in setup.cfg. The config files at the top are installed as `flsl_jax.configs`."""

from setuptools import find_packages, setup

configs = ["flsl_jax.configs", *(f"flsl_jax.configs.{name}" for name in find_packages("configs"))]
setup(packages=[*find_packages(include=["flsl_jax*"]), *configs], package_dir={"flsl_jax.configs": "configs"})

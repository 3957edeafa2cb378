"""One thread for PyTorch: with more, threads wait for each other wherever another test keeps a core busy."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

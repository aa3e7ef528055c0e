"""Python imports this at the start of every process of a crash test: this folder is first on PYTHONPATH there."""

import os

if "SVD_BATCH_CRASH_LAYER" in os.environ:
    from crash.layer import install

    install(os.environ["SVD_BATCH_CRASH_LAYER"])

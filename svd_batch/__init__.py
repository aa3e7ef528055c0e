"""svd_batch: image manifest in, video dataset out.

Importing this package loads neither torch, ray nor hydra; the submodules that need them load them late.
"""

__version__ = "0.1.0"

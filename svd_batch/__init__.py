"""svd_batch: image manifest in, video dataset out.

Importing this package loads neither torch, ray nor hydra; the submodules that need them load them late.
"""

import os

__version__ = "0.1.0"

# Before anything imports the hub's client, in the actors of a cluster too. Who has set it has chosen.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

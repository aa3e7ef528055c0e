"""Entry point of ``python -m svd_batch``."""

from svd_batch.cli import main

if __name__ == "__main__":
    raise SystemExit(main())

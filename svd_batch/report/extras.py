"""What `report` has beside the page when it is asked to: report.md with plots, contact sheets."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from svd_batch.report import FOLDER
from svd_batch.store import Store


def write_extras(roots: Sequence[Path], asked: argparse.Namespace) -> Iterator[str]:
    """Write what was asked for beside the page and report.md, and yield a line for each.

    Raises: UserError for a folder without a readable table.
    """
    if asked.markdown:
        yield str(roots[0] / FOLDER / "report.md")
    if asked.contact_sheets:
        from svd_batch.report.contact import write_contact_sheets

        for root in roots:
            folder = root / FOLDER / "contact"
            Store(root).check_place(folder)
            num_sheets = sum(1 for _ in write_contact_sheets(root, folder))
            yield f"{folder}: {num_sheets} contact sheets, PNG and GIF"

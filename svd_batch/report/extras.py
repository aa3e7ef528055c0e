"""What `report` writes beside the page when it is asked to: report.md with plots, contact sheets."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

FOLDER = "report"
"""Below the (first) output folder."""


def write_extras(roots: Sequence[Path], asked: argparse.Namespace) -> Iterator[str]:
    """Write what was asked for, and yield a line for each; with several folders report.md compares them.

    Raises: UserError for a folder without a readable table.
    """
    if asked.markdown:
        from svd_batch.analysis import analyse, read_videos
        from svd_batch.report.answer import cell_seconds
        from svd_batch.report.markdown import write_markdown

        videos = read_videos(roots)
        yield str(write_markdown(analyse(videos), roots[0] / FOLDER, cell_seconds(videos)))
    if asked.contact_sheets:
        from svd_batch.report.contact import write_contact_sheets

        for root in roots:
            folder = root / FOLDER / "contact"
            num_sheets = sum(1 for _ in write_contact_sheets(root, folder))
            yield f"{folder}: {num_sheets} contact sheets, PNG and GIF"

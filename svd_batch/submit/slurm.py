from __future__ import annotations

import shlex

from svd_batch.errors import UserError
from svd_batch.submit.submission import Say, Submission


class SlurmJob:
    def __init__(self, submission: Submission) -> None:
        self.submission = submission

    def plan(self) -> str:
        return shlex.join(["python", "-m", "svd_batch", *self.submission.words()])

    def submit(self, say: Say, warn: Say, *, wait: bool, apply: bool) -> int:
        raise UserError("cluster: not there yet")

    def status(self, say: Say) -> int:
        raise UserError("cluster: not there yet")

    def stop(self, say: Say) -> int:
        raise UserError("cluster: not there yet")

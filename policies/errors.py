"""What can be wrong with a policy, and where.

A policy's author gets every problem at once, each with the file, the line and the field's path.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class PolicyError:
    """One problem. ``line`` counts from 1; 0 when the policy did not come from a text."""

    source: str
    line: int
    path: str
    message: str

    def __str__(self) -> str:
        where = f"{self.source}:{self.line}" if self.line else self.source
        return f"{where}: {self.path}: {self.message}" if self.path else f"{where}: {self.message}"

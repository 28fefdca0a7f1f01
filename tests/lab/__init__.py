"""A small internet in network namespaces, for the demo, the end-to-end tests and the benchmarks."""

from tests.lab.container import Container
from tests.lab.lab import Lab, LabError, clear_leftovers
from tests.lab.namespaces import Namespace

__all__ = ["Container", "Lab", "LabError", "Namespace", "clear_leftovers"]

"""The checks of `gatehouse doctor`. Each is a function that returns findings, with a fix for every problem.

`examine` lists them. A check does not raise for a problem: being unable to check is a finding, too.
"""

from gatehouse.doctor.examine import Check, checks, examine
from gatehouse.doctor.finding import Finding

__all__ = ["Check", "Finding", "checks", "examine"]

"""What `gatehouse doctor` looks at. Each check is a function that gives findings, and the fix with what is wrong.

`examine` is the list of them. A check never raises for what it finds: that it could not look is a finding too.
"""

from gatehouse.doctor.examine import Check, checks, examine
from gatehouse.doctor.finding import Finding

__all__ = ["Check", "Finding", "checks", "examine"]

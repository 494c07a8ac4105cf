"""The schema of `gatehouse.yaml`: a frozen model, and problem reports with file and line.

`gatehouse.loading` reads the file.
"""

from gatehouse.config.model import Config
from gatehouse.config.problem import ConfigError, Problem

__all__ = ["Config", "ConfigError", "Problem"]

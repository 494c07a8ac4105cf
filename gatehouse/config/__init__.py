"""The shape of `gatehouse.yaml`: a frozen model, and what says where a file departs from it.

Reading the file is `gatehouse.loading`.
"""

from gatehouse.config.model import Config
from gatehouse.config.problem import ConfigError, Problem

__all__ = ["Config", "ConfigError", "Problem"]

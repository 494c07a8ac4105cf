"""`gatehouse.yaml` as a frozen model: `load` reads it, `ConfigError` says where it is wrong."""

from gatehouse.config.load import load
from gatehouse.config.model import Config
from gatehouse.config.problem import ConfigError, Problem

__all__ = ["Config", "ConfigError", "Problem", "load"]

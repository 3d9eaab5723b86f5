"""What humans write, and its complete resolved form."""

from thinkroute.config.load import load_config, parse_config
from thinkroute.config.resolve import Resolved, VirtualModel, resolve
from thinkroute.config.schema import Config

__all__ = ["Config", "Resolved", "VirtualModel", "load_config", "parse_config", "resolve"]

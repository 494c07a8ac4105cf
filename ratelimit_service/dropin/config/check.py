"""`--check --config-dir DIR`: are these files valid?"""

from pathlib import Path

from ratelimit_service.dropin.config.files import Source
from ratelimit_service.dropin.config.parse import ConfigError, load

OK = "all rate limit configs ok"


def check(directory: Path, *, merge_domains: bool) -> str | None:
    """None if they are, else the reason."""
    if not directory.is_dir():
        return f"{directory} is not a directory"
    try:
        load(Source(directory).read(), merge_domains=merge_domains)
    except (ConfigError, OSError) as error:
        return str(error)
    return None

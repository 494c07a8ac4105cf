"""What every test can count on."""

import os

from gatehouse.config.environment import PREFIX, SHORT_NAMES

for _name in [name for name in os.environ if name in SHORT_NAMES or name.startswith(PREFIX)]:
    del os.environ[_name]  # the gateway's settings in the shell of whoever runs the tests are not ours to obey

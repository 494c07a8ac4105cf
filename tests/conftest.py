"""What every test can count on."""

import os

from hypothesis import settings

from gatehouse.config.environment import PREFIX, SHORT_NAMES

for _name in [name for name in os.environ if name in SHORT_NAMES or name.startswith(PREFIX)]:
    del os.environ[_name]  # the gateway's settings in the shell of whoever runs the tests are not ours to obey

# How long an example takes says more about the machine than about the code.
settings.register_profile("gatehouse", deadline=None)
settings.load_profile("gatehouse")

# Tests that speak gRPC run in one process with tests that start programs. gRPC's own fork handlers would wake its
# threads in a child that is about to become another program, and they abort it.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "false"

"""`python -m ratelimit_service.dropin`: the drop-in for envoyproxy/ratelimit."""

import sys

from ratelimit_service.dropin.serve import run

if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))

"""`python -m portal_service -c gatehouse.yaml`; with `--index` it waits for its turn before it loads anything else."""

import sys

from portal_service import turn

if __name__ == "__main__":
    own = turn.of_process(sys.argv)
    if own:
        turn.bide()
        own.wait()
    from portal_service.wiring import run

    sys.exit(run(own))

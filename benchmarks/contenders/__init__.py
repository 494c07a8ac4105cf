"""What is compared: each contender in a file of its own, that says how it is installed, started and told apart.

`ALL` is in the order of the tables. The first two are the yardsticks: Envoy that only passes on, and Envoy with
Gatehouse's own filters but no services.
"""

from benchmarks.contenders import envoy, fastapi, gatehouse, litellm, portkey, routers
from benchmarks.contenders.contender import Contender, Running

ALL: tuple[Contender, ...] = (
    envoy.BARE,
    envoy.FLOOR,
    gatehouse.FULL,
    fastapi.CONTENDER,
    litellm.CONTENDER,
    portkey.CONTENDER,
    routers.VLLM_ROUTER,
    routers.SMG,
)
BY_NAME = {contender.name: contender for contender in ALL}

__all__ = ["ALL", "BY_NAME", "Contender", "Running"]

"""What tokens cost, in millionths of a US dollar: whole numbers, so that counters add up."""

from collections.abc import Mapping

from gatehouse.config.model import Config, Price

Prices = Mapping[str, Price]
"""Prices by every name of a model, aliases included."""


def prices(config: Config) -> Prices:
    """The prices of `config`, without the models that have none."""
    return {
        name: model.price_per_million_tokens
        for main, model in config.models.items()
        if model.price_per_million_tokens
        for name in (main, *model.aliases)
    }


def cost_micro_usd(price: Price, prompt: int, completion: int, cached: int = 0) -> int:
    """The cost of `prompt` tokens, `cached` of them served from a cache, and `completion` tokens; rounded up.

    A dollar for a million tokens is a millionth of a dollar for one.
    """
    cached = min(cached, prompt)
    cached_price = price.input if price.cached_input is None else price.cached_input
    cost = (prompt - cached) * price.input + cached * cached_price + completion * price.output
    return -int(-round(cost, 6) // 1)

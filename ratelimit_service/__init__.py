"""How much is left: the rate limit service (RLS), its algorithms and its stores."""

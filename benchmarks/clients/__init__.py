"""Who asks: `closed` as fast as it is answered, `paced` by the clock, `streams` many answers at a time."""

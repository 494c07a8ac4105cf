"""What limits count: the rules of tiers, users and teams, and those that single keys bring along."""

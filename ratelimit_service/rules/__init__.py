"""The rules of limits: of tiers, users and teams, and of single keys."""

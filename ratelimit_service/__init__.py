"""The rate limit service (RLS): its rules, algorithms and stores."""

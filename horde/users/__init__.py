"""Accounts: who asks, who owns workers, and what they may do."""

"""The lock of a region: its holders, its waiters, and the recovery from a holder's death."""

"""Pretends: a token-level model of inference engines and of their traffic. Pure; knows no clock and no network."""

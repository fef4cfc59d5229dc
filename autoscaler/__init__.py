"""Tidegate: sees, foresees, plans, serves and explains replicas for LLM inference pools."""

__version__ = "0.1.0"

"""The dashboard: what the running loop saw and decided, replayed journals, and what-if from the present."""

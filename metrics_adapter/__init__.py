"""Metrics in and out, and nothing else: engine vocabularies, Prometheus, direct scraping; the board and its doors."""

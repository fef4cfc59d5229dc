"""Policies: ours and the rivals', all behind one protocol, each a frozen dataclass of its own knobs."""

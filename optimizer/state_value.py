"""What is lost with a replica that is let go: state that somebody would have used again."""

from __future__ import annotations

from optimizer.problem import HOUR_S


def release_price(
    *,
    resident_tokens: float,
    reuse: float,
    prefix_hit_tokens_s: float,
    warm_up_s: float,
    prefill_tokens_s: float,
    price_per_hour: float,
) -> float:
    """Price of computing again what one replica holds.

    The tokens that will have to be prefilled anew are the resident ones that would be used again, and the prefix hits
    that are missed until another replica's cache is as warm: (resident x reuse + hits/s x warm-up) tokens, each costing
    price per hour / 3600 / prefill tokens per second.

    Args:
        resident_tokens: tokens of KV the replica holds.
        reuse: share of them that will be used again, 0..1.
        prefix_hit_tokens_s: prompt tokens/s that its prefix cache saves.
        warm_up_s: seconds until another replica saves as many.
        prefill_tokens_s: prompt tokens/s a replica computes.
        price_per_hour: of one replica.

    Raises:
        ValueError: prefill_tokens_s is not above 0.
    """
    if prefill_tokens_s <= 0:
        raise ValueError(f"prefill_tokens_s {prefill_tokens_s} must be above 0")
    tokens = resident_tokens * reuse + prefix_hit_tokens_s * warm_up_s
    return tokens * price_per_hour / HOUR_S / prefill_tokens_s

"""How long requests are: published log-normal mixes and fixed shapes, drawn many at a time.

The published mixes are fitted to figures of public traces: sigma = ln(P90 / P50) / 1.2816, and the median such that
the mean, after cutting at the longest length of the trace, is the published mean. The load is then exact; of the
shape, the P90 is the furthest point that was fitted. Published and drawn (P50, P90, P99, in tokens):

    azure-conv   input  1020, 2734, 4142 -> 859, 2303, 5146      output  129, 424, 601 -> 143, 469, 1000
    azure-code   input  1469, 5188, 7436 -> 1386, 4894, 7437     output  13, 55, 252 -> 15, 63, 203
    m-large      input  601, 2371, 5452 -> 516, 2036, 6232       output  53, 461, 872 -> 42, 361, 2105
    deepseek-r1  input  208, 2092, 23423 -> 263, 2641, 17336     output  792, 3432, 12607 -> 796, 3451, 11404
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from autoscaler.errors import BadSettings
from autoscaler.simulator.requests import LARGEST_TOKENS
from autoscaler.simulator.workload import Lengths, RequestMix

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autoscaler.simulator.requests import Counts

MIXES: Mapping[str, RequestMix] = MappingProxyType(
    {
        # Azure LLM inference trace 2023 (Splitwise, ISCA 2024), conversation: means 1154.7 and 211.1 tokens.
        "azure-conv": RequestMix(Lengths(859.2, 0.769, 1, 14050), Lengths(142.8, 0.928, 1, 1000)),
        # The same, code: means 2047.8 and 27.9 tokens.
        "azure-code": RequestMix(Lengths(1385.8, 0.984, 1, 7437), Lengths(14.8, 1.125, 1, 1899)),
        # ServeGen (2025), pooled over the clients of m-large: means 914.3 and 155.1 tokens.
        "m-large": RequestMix(Lengths(516.0, 1.071, 1, 25000), Lengths(41.5, 1.688, 1, 3000)),
        # ServeGen, DeepSeek-R1, reasoning tokens included: means 1268.3 and 1527.4 tokens.
        "deepseek-r1": RequestMix(Lengths(262.6, 1.801, 1, 70000), Lengths(796.4, 1.144, 1, 40000)),
        # vLLM's serving benchmark on ShareGPT: 1,000 requests of 215,196 input and 198,343 output tokens, prompts cut
        # at 1024. Only the means are published; sigmas of 1.3 and 1.2 are assumed.
        "sharegpt": RequestMix(Lengths(111.1, 1.3, 4, 1024), Lengths(100.2, 1.2, 4, 2000)),
    }
)
"""Published mixes by name."""

_FIXED = re.compile(r"(\d{1,8})/(\d{1,8})", re.ASCII)


def mix_of(text: str) -> RequestMix:
    """A mix from its name, or INPUT/OUTPUT tokens for requests that are all alike, such as 4000/1000.

    Raises:
        BadSettings: neither.
    """
    if text in MIXES:
        return MIXES[text]
    fixed = _FIXED.fullmatch(text)
    sizes = [int(size) for size in fixed.groups()] if fixed else []
    if not sizes or not all(1 <= size <= LARGEST_TOKENS for size in sizes):
        problem = (
            f"lengths {text!r} are not one of {', '.join(MIXES)}, nor INPUT/OUTPUT in tokens (1..{LARGEST_TOKENS:,})"
        )
        raise BadSettings((problem,))
    prompt, output = (Lengths(size, 0.0, size, size) for size in sizes)
    return RequestMix(prompt, output)


def draw_mix(mix: RequestMix, count: int, random: np.random.Generator) -> tuple[Counts, Counts, Counts | None]:
    """Prompt, output and cached tokens of so many requests; cached is None where the mix has no cached prefixes."""
    prompt, output = draw_lengths(mix.prompt, count, random), draw_lengths(mix.output, count, random)
    if mix.cached_probability == 0 or mix.cached_share == 0:
        return prompt, output, None
    most = np.minimum(np.rint(prompt * mix.cached_share), prompt - 1).astype(np.int32)
    hit = random.random(count) < mix.cached_probability
    return prompt, output, np.where(hit, most // mix.cache_block * mix.cache_block, 0).astype(np.int32)


def draw_lengths(lengths: Lengths, count: int, random: np.random.Generator) -> Counts:
    """So many lengths, in tokens."""
    values = lengths.median * np.exp(lengths.sigma * random.standard_normal(count))
    rounded: Counts = np.clip(np.rint(values), lengths.smallest, lengths.largest).astype(np.int32)
    return rounded

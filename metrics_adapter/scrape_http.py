"""One bounded, honest GET of a `/metrics` page: it ends in time, in size, and in samples or a reason."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp

from metrics_adapter.engines import known_names
from metrics_adapter.exposition_text import ExpositionError, parse_exposition

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping

    from metrics_adapter.exposition_text import Sample

# OpenMetrics is read but never asked for: prometheus_client, which vLLM and SGLang use, prefers it whatever the q value
# and then writes vllm_… for vllm:…
_ACCEPT = "text/plain;version=0.0.4,*/*;q=0.1"
_CHUNK = 65_536  # bytes read at a time
_MESSAGE = 200  # characters of a reason
_REDIRECTS = 3
_OK = 200


@dataclass(frozen=True, slots=True)
class ScrapeOptions:
    """How to scrape.

    Attributes:
        window_s: rates are over this many seconds, like the range of PromQL's `rate()`; at least two scrapes must fall
            into it, better four.
        max_age_s: engines whose newest sample is older do not report.
        timeout_s: a whole look, all targets together, ends after this many seconds.
        target_timeout_s: one target; None for half of `timeout_s`, so that hanging ones cannot use up a look.
        interval_s: scrape in the background this often; None scrapes when read.
        concurrency: requests in flight at most.
        max_body_bytes: a decompressed body longer than this is refused (vLLM's is about 50 KB).
        max_samples: more samples of engine metrics than this in one body are refused (vLLM has about 60 an engine).
        headers: sent with each request, e.g. Authorization.
        tls: verifies https targets; None for the system's trust store.

    Raises:
        ValueError: a number is not positive; names it.
    """

    window_s: float = 60.0
    max_age_s: float = 30.0
    timeout_s: float = 5.0
    target_timeout_s: float | None = None
    interval_s: float | None = None
    concurrency: int = 64
    max_body_bytes: int = 16 * 1024 * 1024
    max_samples: int = 20_000
    headers: Mapping[str, str] | None = None
    tls: ssl.SSLContext | None = None

    def __post_init__(self) -> None:
        limits = {
            "window_s": self.window_s,
            "max_age_s": self.max_age_s,
            "timeout_s": self.timeout_s,
            "target_timeout_s": self.target_timeout_s,
            "interval_s": self.interval_s,
            "concurrency": self.concurrency,
            "max_body_bytes": self.max_body_bytes,
            "max_samples": self.max_samples,
        }
        for name, value in limits.items():
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be a positive number, not {value!r}")

    @property
    def each_s(self) -> float:
        """Seconds one target may take."""
        return min(self.timeout_s, self.target_timeout_s or self.timeout_s / 2)


class ScrapeError(Exception):
    """A target gave no usable answer; the message says why, for people.

    Attributes:
        slow: it used up all the time it was given.
    """

    def __init__(self, why: str, *, slow: bool = False) -> None:
        super().__init__(why)
        self.slow = slow


class Scraper:
    """Fetches and parses pages with one connection pool. Belongs to the event loop it is made in."""

    def __init__(self, options: ScrapeOptions) -> None:
        self._options = options
        self._names = known_names()
        self._slots = asyncio.Semaphore(options.concurrency)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=options.concurrency, ssl=options.tls or True),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept": _ACCEPT, "User-Agent": "tidegate", **(options.headers or {})},
            timeout=aiohttp.ClientTimeout(total=None),
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()

    async def scrape(self, url: str, begin: Callable[[], float]) -> tuple[float, list[Sample]]:
        """Return when the request was sent (`begin()` at that moment) and the samples of known names.

        Raises:
            ScrapeError: refused, timed out, not 200, too long, cut short, or no exposition text.
        """
        async with self._slots:
            at = begin()
            try:
                async with asyncio.timeout(self._options.each_s):
                    body, openmetrics = await self._fetch(url)
                samples = parse_exposition(body, self._names, openmetrics=openmetrics)
            except TimeoutError as error:
                raise ScrapeError(f"no whole answer within {self._options.each_s:g} s", slow=True) from error
            except ExpositionError as error:
                raise ScrapeError(f"not a metrics page: {error}") from error
            except (aiohttp.ClientError, OSError, ValueError) as error:
                raise ScrapeError((str(error) or type(error).__name__)[:_MESSAGE]) from error
        if len(samples) > self._options.max_samples:
            raise ScrapeError(f"{len(samples)} samples of engine metrics, limit {self._options.max_samples}")
        return at, samples

    async def _fetch(self, url: str) -> tuple[bytes, bool]:
        async with self._session.get(url, max_redirects=_REDIRECTS) as response:
            if response.status != _OK:
                raise ScrapeError(f"answered {response.status} {response.reason or ''}".rstrip())
            body = bytearray()
            async for chunk in response.content.iter_chunked(_CHUNK):
                body += chunk
                if len(body) > self._options.max_body_bytes:
                    raise ScrapeError(f"the body is longer than {self._options.max_body_bytes} bytes")
            return bytes(body), response.content_type == "application/openmetrics-text"

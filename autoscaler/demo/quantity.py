"""Kubernetes quantities (`"6"`, `"3500m"`, `"2.5k"`, `"4e0"`), as the HPA reads them: in thousandths, rounded up."""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal

_FORM = re.compile(r"([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))(?:([numkMGTPE]|[KMGTPE]i)|[eE]([+-]?[0-9]{1,3}))?")
_DECIMAL = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_LARGEST_MILLI = 2**63 - 1
_SHOWN = 40


def milli(value: object) -> int:
    """A quantity in thousandths.

    Args:
        value: a JSON string, or a bare JSON number (which parses too).

    Returns:
        Thousandths, rounded up and held within a signed 64-bit integer.

    Raises:
        ValueError: it is no quantity (`nan`, `inf`, `true`, an empty string, a list ...).
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        # One error class for whatever a server may send in this place.
        raise ValueError(f"a quantity must be a string or a number, not {str(value)[:_SHOWN]!r}")  # noqa: TRY004 - see above
    text = value if isinstance(value, str) else repr(value)
    found = _FORM.fullmatch(text)
    if found is None:
        raise ValueError(
            f"quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'; "
            f"got {text[:_SHOWN]!r}"
        )
    number, suffix, exponent = found.groups()
    scaled = Decimal(number)
    if suffix in _DECIMAL:
        scaled = scaled.scaleb(_DECIMAL[suffix])
    elif suffix in _BINARY:
        scaled *= Decimal(1024) ** _BINARY[suffix]
    elif exponent:
        scaled = scaled.scaleb(int(exponent))
    bounded = max(Decimal(-_LARGEST_MILLI), min(Decimal(_LARGEST_MILLI), scaled.scaleb(3)))
    return int(bounded.to_integral_value(ROUND_CEILING))

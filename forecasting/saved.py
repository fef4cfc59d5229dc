"""A forecaster's state as plain arrays and back, so that a restart goes on where it stopped (`numpy.savez` keeps them).

The short way back is `Bounded.fit` over a history; this keeps the account of misses and the weights as well.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from forecasting.intervals import Origin
from forecasting.online import Grid

if TYPE_CHECKING:
    from collections.abc import Mapping

    from forecasting.intervals import Bounded, BoundedState


SERIAL = ("rows", "known", "said")
"""Fields that are as long as what was seen."""


def packed(state: BoundedState) -> dict[str, np.ndarray]:
    """Every array of the state by its path, such as `past.rows` (bins x loads).

    Raises:
        TypeError: a model keeps a state that is not made of arrays, as those fitted by statsmodels do.
    """
    found: dict[str, np.ndarray] = {}
    _pack("", state, found)
    return found


def _pack(path: str, part: Any, found: dict[str, np.ndarray]) -> None:
    if part is None or isinstance(part, Grid):
        return
    if isinstance(part, np.ndarray | int):
        found[path] = np.asarray(part)
    elif is_dataclass(part):
        for field in fields(part):
            _pack(f"{path}.{field.name}".lstrip("."), getattr(part, field.name), found)
    elif isinstance(part, tuple) and path.rpartition(".")[2] in SERIAL:
        _pack_series(path, part, found)
    elif isinstance(part, tuple) and path == "models":
        for place, model in enumerate(part):
            _pack(f"{path}.{place}", model, found)
    else:
        raise TypeError(f"{path}: a {type(part).__name__} cannot be kept as arrays")


def _pack_series(path: str, parts: tuple[Any, ...], found: dict[str, np.ndarray]) -> None:
    if not parts:
        return
    if isinstance(parts[0], np.ndarray):
        found[path] = np.stack(parts)
        return
    for field in fields(parts[0]):
        found[f"{path}.{field.name}"] = np.stack([getattr(part, field.name) for part in parts])


def unpacked(forecaster: Bounded, grid: Grid, arrays: Mapping[str, np.ndarray]) -> BoundedState:
    """The state that `packed` took apart.

    Raises:
        ValueError: these are not the arrays of such a forecaster on such a grid; which one is missing or misshapen.
    """
    if "past.mean" not in arrays:
        raise ValueError("past.mean: missing")
    empty = forecaster.begin(grid, len(arrays["past.mean"]))
    state: BoundedState = _unpacked("", empty, arrays)
    return state


def _unpacked(path: str, empty: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    name = path.rpartition(".")[2]
    if name == "bin_":
        return int(arrays[path]) if path in arrays else None
    if isinstance(empty, np.ndarray):
        return _like(path, empty, arrays)
    if name in SERIAL:
        return _origins(path, arrays) if name == "said" else tuple(np.array(arrays.get(path, ())))
    if path == "models":
        return tuple(_unpacked(f"{path}.{place}", model, arrays) for place, model in enumerate(empty))
    if is_dataclass(empty) and not isinstance(empty, Grid):
        parts = {
            field.name: _unpacked(f"{path}.{field.name}".lstrip("."), getattr(empty, field.name), arrays)
            for field in fields(empty)
        }
        made: Any = type(empty)
        return made(**parts)
    return empty


def _like(path: str, empty: np.ndarray, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    found = arrays.get(path)
    if found is None or found.shape != empty.shape or found.dtype != empty.dtype:
        said = "missing" if found is None else f"{found.dtype} {found.shape}"
        raise ValueError(f"{path}: {said}; it must be {empty.dtype} {empty.shape}")
    return found.copy()


def _origins(path: str, arrays: Mapping[str, np.ndarray]) -> tuple[Origin, ...]:
    parts = {field.name: arrays.get(f"{path}.{field.name}") for field in fields(Origin)}
    if all(part is None for part in parts.values()):
        return ()
    known = {name: part for name, part in parts.items() if part is not None}
    lengths = {len(part) for part in known.values()}
    if len(known) < len(parts) or len(lengths) > 1:
        raise ValueError(f"{path}: parts are missing, or of lengths {sorted(lengths)}; they must be one origin each")
    return tuple(Origin(**{name: part[k].copy() for name, part in known.items()}) for k in range(lengths.pop()))

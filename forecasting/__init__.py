"""How much is coming: series with explicit gaps, forecasters that give quantiles at several horizons at once.

One load, from whatever history there is:

    from forecasting import Series, SimpleQuantile

    series = Series.of([(0.0, 40.0), (10.0, 42.0), (20.0, None), (30.0, 41.0)], bin_s=10.0)
    ahead = SimpleQuantile().forecast(series, at=30.0, horizons=(15.0, 300.0), quantiles=(0.5, 0.95))
    ahead.values[1][1]  # the load 300 s ahead that is exceeded in one case out of twenty

Many loads, bin by bin, with bounds that keep their promise:

    from forecasting import DEFAULT, Grid, named

    forecaster = named(DEFAULT)
    state = forecaster.fit(Grid(600.0, horizons=(1, 3, 6)), history, newest)  # loads x bins, the number of the last bin
    state = forecaster.step(state, newest + 1, values)
    forecaster.ahead(state)                                                  # loads x horizons x quantiles
"""

from forecasting.damped import DampedQuantile, reached
from forecasting.events import Event, declared
from forecasting.forecaster import Forecast, Forecaster, LastValue, SimpleQuantile
from forecasting.intervals import Bounded, BoundedState
from forecasting.league import DEFAULT, FORECASTERS, named
from forecasting.online import Grid, OnlineForecaster
from forecasting.periods import Period, detect
from forecasting.rolling import Backtest, Score, backtest, binned
from forecasting.saved import packed, unpacked
from forecasting.series import Series

__all__ = [
    "DEFAULT",
    "FORECASTERS",
    "Backtest",
    "Bounded",
    "BoundedState",
    "DampedQuantile",
    "Event",
    "Forecast",
    "Forecaster",
    "Grid",
    "LastValue",
    "OnlineForecaster",
    "Period",
    "Score",
    "Series",
    "SimpleQuantile",
    "backtest",
    "binned",
    "declared",
    "detect",
    "named",
    "packed",
    "reached",
    "unpacked",
]

"""How much is coming: series with explicit gaps, forecasters that give quantiles at several horizons at once.

from forecasting import Series, SimpleQuantile

series = Series.of([(0.0, 40.0), (10.0, 42.0), (20.0, None), (30.0, 41.0)], bin_s=10.0)
ahead = SimpleQuantile().forecast(series, at=30.0, horizons=(15.0, 300.0), quantiles=(0.5, 0.95))
ahead.values[1][1]  # the load 300 s ahead that is exceeded in one case out of twenty
"""

from forecasting.forecaster import Forecast, Forecaster, LastValue, SimpleQuantile
from forecasting.series import Series

__all__ = ["Forecast", "Forecaster", "LastValue", "Series", "SimpleQuantile"]

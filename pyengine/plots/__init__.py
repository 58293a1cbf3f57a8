"""Pictures of results: the figures of Geva et al. 2021 for any model."""

from pyengine.plots.agreement import plot_agreement as plot_agreement
from pyengine.plots.predictions import plot_predictions as plot_predictions

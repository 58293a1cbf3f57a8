"""Pictures of results: the figures of Geva et al. 2021 and Dai et al. 2022 for any model."""

from pyengine.plots.agreement import plot_agreement as plot_agreement
from pyengine.plots.neurons import plot_neurons as plot_neurons
from pyengine.plots.predictions import plot_predictions as plot_predictions
from pyengine.plots.shortcuts import plot_shortcuts as plot_shortcuts

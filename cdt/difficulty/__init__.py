"""How hard each noise level is, measured: convergence per cluster and relative entropy."""

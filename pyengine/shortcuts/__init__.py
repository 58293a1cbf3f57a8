"""Linear shortcuts between layers: maps from one point of the residual stream to another."""

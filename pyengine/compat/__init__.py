"""Other packages' names and arguments, on this engine."""

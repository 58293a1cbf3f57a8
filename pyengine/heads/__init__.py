"""What each attention head knows: sentence vectors, probes, and what is built of the best heads."""

"""Where in the noise coordinate u a run trains."""

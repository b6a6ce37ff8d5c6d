"""Chapter 10: an engine for the whole day: containers that stay, without a daemon. `records`, `monitor`, `attach`."""

"""Chapter 5: a client of registries, `client`, and what carries images between it and the store, `transfer`."""

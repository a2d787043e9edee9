"""What every feature stands on: database, cache, object store, HTTP, errors, periodic work."""

"""HTTP: routes, auth, errors. Never trains, never imports torch."""

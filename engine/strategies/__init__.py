"""Who is trained, on what: one strategy per file, each a `Lesson` for the loop."""

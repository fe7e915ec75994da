"""State: the only room that speaks SQL, and the artifact store."""

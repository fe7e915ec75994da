"""Jobs under kill -9, SIGSTOP, FLUSHALL and crashes of Postgres: what is lost, done twice, or wrong? See `__main__`."""

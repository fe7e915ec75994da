"""The worker: claims a job, holds its lease, hands it to the engine, records what happens."""

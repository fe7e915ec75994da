"""Runs in MLflow's own environment: brings its database up and writes finished runs in bulk, by MLflow's own tables.

    .peers-mlflow/bin/python benchmarks/api_mlflow_fill.py DATABASE_URL ARTIFACTS COUNT PARAMETERS_AS_JSON

Prints the ids. Bulk, because ten thousand runs over its API take minutes.
"""

import json
import sys
import time
import uuid

from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlMetric, SqlParam, SqlRun, SqlTag
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

BATCH = 500


def main(url: str, artifacts: str, count: int, parameters: dict[str, str]) -> None:
    """Make the tables and the rows."""
    store = SqlAlchemyStore(url, artifacts)
    ids = [uuid.uuid4().hex for _ in range(count)]
    now = int(1000 * time.time())
    for start in range(0, count, BATCH):
        rows: list[object] = []
        for place, run_id in enumerate(ids[start : start + BATCH], start):
            rows.append(
                SqlRun(
                    run_uuid=run_id, name=f"run-{place}", source_type="LOCAL", user_id="benchmark", status="RUNNING",
                    start_time=now + place, lifecycle_stage="active", experiment_id=0,
                    artifact_uri=f"{artifacts}/0/{run_id}/artifacts",
                )
            )  # fmt: skip
            rows.append(SqlTag(run_uuid=run_id, key="mlflow.runName", value=f"run-{place}"))
            rows += [SqlParam(run_uuid=run_id, key=key, value=value) for key, value in parameters.items()]
            metric = {"run_uuid": run_id, "key": "loss", "value": 1.0, "timestamp": now, "step": 0, "is_nan": False}
            rows += [SqlMetric(**metric), SqlLatestMetric(**metric)]
        with store.ManagedSessionMaker() as session:
            session.add_all(rows)
    print(json.dumps(ids))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4]))

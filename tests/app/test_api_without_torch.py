"""The API runs where no torch is installed, and never loads it where it is."""

import subprocess
import sys

BLOCKED = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "torchvision", "sklearn", "onnx", "onnxruntime", "numpy"}:
            raise ImportError(f"{name} is blocked: {name} has no business in the API")

sys.meta_path.insert(0, Refuse())
"""
RUN = """
import asyncio, tempfile, httpx
from app.main import create_app
from store.config import StoreConfig
from store.db import migrate

async def main():
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/distillery.db"
        migrate(url)
        app = create_app(StoreConfig(url, f"{folder}/artifacts"))
        async with app.router.lifespan_context(app):
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api") as http:
                spec = {"dataset": {"name": "digits"}, "student": {"architecture": "seed_student"},
                        "teacher": {"architecture": "seed_teacher", "train": {"epochs": 1}}}
                assert (await http.post("/v1/jobs", json=spec)).status_code == 201
                assert (await http.post("/v1/jobs:validate", json=spec)).status_code == 200
                pair = {"student": "features.8", "teacher": "layer9"}
                spec["method"] = {"objective": [{"term": "hint", "pairs": [pair]}]}
                refused = (await http.post("/v1/jobs:validate", json=spec)).json()
                assert [each["code"] for each in refused["errors"]] == ["UNKNOWN_LAYER"], refused
                for path in ("/v1/jobs", "/v1/architectures", "/v1/objectives", "/readyz", "/metrics", "/openapi.json"):
                    assert (await http.get(path)).status_code == 200, path

asyncio.run(main())
print("served")
"""


def test_the_api_serves_with_torch_blocked() -> None:
    ran = subprocess.run([sys.executable, "-c", BLOCKED + RUN], capture_output=True, text=True, timeout=240)
    assert ran.stdout == "served\n", ran.stderr[-3000:]


def test_where_torch_and_celery_are_installed_they_are_not_loaded() -> None:
    check = """
heavy = {"torch", "torchvision", "celery", "kombu", "redis"}
assert not [name for name in sys.modules if name.partition(".")[0] in heavy]
"""
    command = [sys.executable, "-c", "import sys\n" + RUN + check]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0, ran.stderr[-3000:]

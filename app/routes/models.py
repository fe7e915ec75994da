"""Models: the students that jobs delivered and the teachers they trained."""

from fastapi import APIRouter

from app.errors import documented
from app.parameters import ModelId, PageSize, PageToken
from app.service import Served
from distillery.views import Model, Page
from store import models

router = APIRouter(tags=["models"])


@router.get("/v1/models", responses=documented(400))
def list_models(served: Served, page_size: PageSize = 50, page_token: PageToken = None) -> Page[Model]:
    """List models, the newest first."""
    with served.database.read() as session:
        return models.page(session, page_size=page_size, token=page_token)


@router.get("/v1/models/{model_id}", responses=documented(404))
def get_model(model_id: ModelId, served: Served) -> Model:
    """Show a model; its id may stand as `teacher.model` in a later job."""
    with served.database.read() as session:
        return models.get(session, model_id)

"""From the artifact store into memory. torch is imported here, when the first network is asked for, and not before."""

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from distillery.errors import UnusableWeights, WrongState
from store.artifacts import Artifacts
from store.servable import Servable

if TYPE_CHECKING:
    from engine.answering import Answering


def load(wanted: Servable, *, artifacts: Artifacts, folder: Path, threads: int) -> "Answering":
    """Fetch the file, hold it against its sha256, and load the network. The file is gone when this returns: the store
    has it, and nothing here grows.

    Raises:
        CorruptFile: the bytes are not those that were delivered.
        NotFound: they are gone.
        Unavailable: the store is out of reach.
        WrongState: the file is not the network that it should be. Whoever asks cannot mend that with another request.
    """
    path = folder / f"{wanted.sha256[:16]}-{threading.get_ident()}{Path(wanted.key).suffix}"
    try:
        artifacts.fetch(wanted.key, path, sha256=wanted.sha256)
        from engine import answering

        expected = answering.Expected(
            architecture=wanted.architecture,
            classes=len(wanted.classes),
            image_size=wanted.image_size,
            channels=wanted.channels,
            mean=wanted.mean,
            std=wanted.std,
            preprocessing=wanted.preprocessing,
            outputs=wanted.outputs,
        )
        return answering.load(path, form=wanted.form, expected=expected, threads=threads)
    except UnusableWeights as error:
        detail = f"The {wanted.role} of {wanted.id} cannot be loaded. {error.detail}"
        raise WrongState(detail, hint="Run the job, or add the model, again.") from None
    finally:
        path.unlink(missing_ok=True)

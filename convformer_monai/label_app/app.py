"""The app that MONAI Label runs: one bundle, its tasks, and who may ask for what."""

from __future__ import annotations

import atexit
import logging
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from monailabel.config import settings
from monailabel.datastore.dicom import DICOMwebClientX
from monailabel.endpoints import infer as infer_endpoint
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import DefaultLabelTag
from monailabel.tasks.activelearning.epistemic import Epistemic
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random

from convformer_monai import __version__
from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.label_app.answers import answered
from convformer_monai.label_app.datastores import FolderDatastore, PacsDatastore
from convformer_monai.label_app.infer import SegmentTask
from convformer_monai.label_app.options import is_address, read_options
from convformer_monai.label_app.scoring import SCORE, EpistemicScoring
from convformer_monai.label_app.seg import seg_of_result
from convformer_monai.label_app.train import FineTuneTask

__all__ = ["ConvFormerApp"]

logger = logging.getLogger(__name__)

NAMES = ("image", "label", "id")  # in queries
NO_NAME = "no image is named; give the id of one in the datastore"
STOCK_FILTER = {"Modality": "CT"}  # what MONAI Label searches for by default


class ConvFormerApp(MONAILabelApp):  # type: ignore[misc]
    """A label server for one bundle.

    Args:
        app_dir: folder of the app, in which MONAI Label keeps its logs.
        studies: folder of images, or address of a DICOMweb server.
        conf: see :func:`convformer_monai.label_app.options.read_options`.
    """

    def __init__(self, app_dir: str, studies: str, conf: Mapping[str, str]) -> None:
        self.options = read_options(conf, studies)
        # Uploads are written to the folder for temporary files, and then asked for by path: a folder of our own, whose
        # name nobody can guess, tells them from other files of this machine.
        self.uploads = Path(tempfile.mkdtemp(prefix="convformer-label-")).resolve()
        atexit.register(shutil.rmtree, self.uploads, ignore_errors=True)
        tempfile.tempdir = str(self.uploads)
        self._scored_for: int | None = None
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=dict(conf),
            name=f"ConvFormer: {self.options.bundle.name}",
            description=str(self.options.bundle.metadata["description"]),
            version=__version__,
            labels=[label.name for label in self.options.labels],
        )
        self._auto_update_scoring = False  # once for each version of the weights is enough; see next_sample
        infer_endpoint.nifti_to_dicom_seg = seg_of_result(self.options)

    def init_datastore(self) -> Any:
        """Opens the images."""
        if not is_address(self.studies):
            reload, read_only = settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD, settings.MONAI_LABEL_DATASTORE_READ_ONLY
            return FolderDatastore(self.studies, self.options, reload, read_only)
        session = None
        if settings.MONAI_LABEL_DICOMWEB_USERNAME and settings.MONAI_LABEL_DICOMWEB_PASSWORD:
            from dicomweb_client.session_utils import create_session_from_user_pass

            session = create_session_from_user_pass(
                settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD
            )
        client = DICOMwebClientX(
            url=self.studies.rstrip("/"),
            session=session,
            qido_url_prefix=settings.MONAI_LABEL_QIDO_PREFIX,
            wado_url_prefix=settings.MONAI_LABEL_WADO_PREFIX,
            stow_url_prefix=settings.MONAI_LABEL_STOW_PREFIX,
        )
        return PacsDatastore(client, self.options, self._search_filter())

    def _search_filter(self) -> dict[str, Any]:
        """Which series are shown: those of the bundle's modality, unless the environment says otherwise."""
        requested = dict(settings.MONAI_LABEL_DICOMWEB_SEARCH_FILTER)
        if requested != STOCK_FILTER:
            return requested
        modality = self.options.bundle.modality
        return {"Modality": modality} if modality else {}

    def init_infers(self) -> dict[str, Any]:
        """The model."""
        return {self.options.name: SegmentTask(self.options)}

    def init_trainers(self) -> dict[str, Any]:
        """Its fine-tuning."""
        return {self.options.name: FineTuneTask(self.options)}

    def init_strategies(self) -> dict[str, Any]:
        """Which image comes next: the one that the model is least sure of, or any."""
        return {
            "epistemic": Epistemic(key=SCORE, desc="The image that the model is least sure of"),
            "random": Random(),
            "first": First(),
        }

    def init_scoring_methods(self) -> dict[str, Any]:
        """How sure the model is."""
        return {"epistemic": EpistemicScoring(self.options)}

    def on_init_complete(self) -> None:
        """Starts the scoring of images in the background."""
        super().on_init_complete()
        self._score_once()

    def _score_once(self) -> None:
        """Has images scored by the version of the weights that is in use, if that was not asked for yet."""
        version = self.options.versions.current.number
        if self._server_mode and self._scored_for != version:
            self._scored_for = version
            self.async_scoring("epistemic")

    def infer(self, request: Mapping[str, Any], datastore: Any = None) -> dict[str, Any]:
        """Segments an image of the datastore, of a session, or an upload.

        Args:
            request: ``model``, ``image`` (an id, or the path of an upload), ``save_label`` with ``label_tag``, and what
                :class:`SegmentTask` takes.
            datastore: None for the app's own.

        Raises:
            HTTPException: 4xx if that cannot be done.
        """
        with answered():
            task = self._task(request.get("model"))
            image = request.get("image")
            if not isinstance(image, str) or not image:
                raise InputRefused(RefusalCode.IMAGE_NOT_FOUND, NO_NAME)
            store = datastore or self.datastore()
            own = self._own_file(image)
            source = own or store.source(image)
            file, reply = task({**request, "image": str(source)})
            label = file
            if request.get("save_label") and own is None:
                tag = request.get("label_tag") or DefaultLabelTag.ORIGINAL
                tag = tag.value if isinstance(tag, DefaultLabelTag) else str(tag)
                label = store.save_label(image, file, tag, {"model": request["model"], "params": reply})
            return {"label": label, "tag": DefaultLabelTag.ORIGINAL, "file": file, "params": reply}

    def _own_file(self, image: str) -> Path | None:
        """The path of an upload or a session's image, if it is one; any other path of this machine is not taken."""
        if not Path(image).is_absolute():
            return None
        path = Path(image).resolve()
        folders = [self.uploads]
        if self.sessions() is not None:
            folders.append(Path(self.sessions().store_path).resolve())
        if any(path.is_relative_to(folder) for folder in folders) and path.exists():
            return path
        raise InputRefused(
            RefusalCode.FORBIDDEN, "images are named by their id in the datastore, or uploaded; not by a path"
        )

    def _task(self, model: Any) -> Any:
        if model not in self._infers:
            raise InputRefused(
                RefusalCode.MODEL_NOT_FOUND, f"there is no model {model!r}; there is {', '.join(self._infers)}"
            )
        return self._infers[model]

    def infer_wsi(self, request: Mapping[str, Any], datastore: Any = None) -> dict[str, Any]:
        """Refuses: these models are not for whole-slide images."""
        with answered():
            raise InputRefused(RefusalCode.OPTION, "this model is not for whole-slide images")

    def train(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Trains a new version of the weights; runs in a process of its own."""
        with answered():
            self._task(request.get("model"))
            return self._trainers[request["model"]](request, self.datastore())  # type: ignore[no-any-return]

    def batch_infer(self, request: Mapping[str, Any], datastore: Any = None) -> dict[str, Any]:
        """Segments all images; on a machine without several GPUs one after another."""
        with answered():
            self._task(request.get("model"))
            several = torch.cuda.device_count() > 1  # MONAI Label asks for several GPUs, and fails without any
            requested = {**request, "multi_gpu": several and request.get("multi_gpu", True)}
            return super().batch_infer(requested, datastore)  # type: ignore[no-any-return]

    def next_sample(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Chooses the image to label next; an empty answer if all are labelled."""
        with answered():
            strategy = request.get("strategy") or "random"
            if strategy not in self._strategies:
                raise InputRefused(
                    RefusalCode.STRATEGY_NOT_FOUND,
                    f"there is no strategy {strategy!r}; there are {', '.join(self._strategies)}",
                )
            self._score_once()
            return super().next_sample({**request, "strategy": strategy})  # type: ignore[no-any-return]

    def bundle_path(self, model: str | None) -> None:
        """Called before any background task with the model's name, if it has one: refuses an unknown one."""
        if model is not None:
            with answered():
                self._task(model)

    def model_file(self, model: str, validate: bool = True) -> str | None:
        """A copy of the weights in use: the server's requests to replace or delete a model end there."""
        if model not in self._infers:
            return None
        copy = self.uploads / "weights" / f"{model}.pt"
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(self._infers[model].get_path(), copy)
        return str(copy)

    def check(self, method: str, path: str, query: Mapping[str, str]) -> None:
        """Refuses requests that the server's own code would answer wrongly.

        Args:
            method: of HTTP.
            path: of the address.
            query: of the address.

        Raises:
            InputRefused: naming why.
        """
        parts = [part for part in path.split("/") if part]
        is_new_image = method == "PUT" and parts in (["datastore"], ["datastore", "image"])  # may be named by its file
        if parts[:1] == ["datastore"] and not is_new_image and any(query.get(name) == "" for name in NAMES):
            raise InputRefused(RefusalCode.IMAGE_NOT_FOUND, NO_NAME)
        if parts[:1] == ["model"] and method in ("PUT", "DELETE"):
            raise InputRefused(
                RefusalCode.FORBIDDEN, "weights change by training and by --version only, not by request"
            )
        if parts[:1] == ["train"] and method == "POST" and not self.datastore().get_labeled_images():
            raise InputRefused(RefusalCode.NO_LABELS, "no image has a final label yet; save one first")
        if parts[:1] == ["scoring"] and method == "POST" and len(parts) > 1 and parts[1] not in self._scoring_methods:
            raise InputRefused(RefusalCode.MODEL_NOT_FOUND, f"there is no scoring method {parts[1]!r}")

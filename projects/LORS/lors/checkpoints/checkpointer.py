"""Detectron2's checkpointer, which here knows more kinds of files and refuses what does not fit."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.error import URLError

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import Tensor, nn

from lors.checkpoints.about import About, about_of
from lors.checkpoints.convert import DETECTOR, convert
from lors.checkpoints.weights import Unreadable, read, weights_of, write
from lors.errors import UserError
from lors.sharing import factorize, merge
from lors.training.files import replacing

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

# The norms of Swin's outputs are this project's, and an index or a counter is no weight.
_OPTIONAL = re.compile(r"backbone\.norms\..+|.+\.relative_position_index|.+\.num_batches_tracked")
_STAGE = re.compile(r"backbone\.(?:\w*[a-z]\w*\.)+(?=\d+\.)")
_CLASSIFIER = re.compile(r"decoder\.stages\.\d+\.classify\.3\.(weight|bias)")


class Checkpointer(DetectionCheckpointer):
    """Loads a detector; where `about` is given, also what is only a start for training.

    A start is a backbone alone; a detector of other classes, whose classifiers keep the rows of those with
    the same name; or, where it `factorizes`, a plain detector for a model whose stages share weights.

    The authors' AdaMixer and LORS and the backbones of several programs are converted on the way. No code in
    a file is run. What is saved is whole or not there, whenever the program is killed.

    Args:
        about: what to save with the weights, see `describe`.
        factorizes: a plain detector becomes the nearest that the model's bank can have.

    Raises, when loading:
        UserError: a file that cannot be read, tensors of other shapes than the model's, tensors that the
            file lacks or the model, and other classes where training is resumed.
        OSError: a file that is not there or cannot be downloaded.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        about: About | None = None,
        factorizes: bool = False,
        **checkpointables: Any,
    ) -> None:
        super().__init__(model, save_dir, **checkpointables)
        self.about, self.factorizes, self._resumes = about, factorizes, False

    def save(self, name: str, **kwargs: Any) -> None:
        if not self.save_dir or not self.save_to_disk:
            return
        states = {key: part.state_dict() for key, part in self.checkpointables.items()}
        path = os.path.join(self.save_dir, f"{name}.pth")
        logger.info("Saving checkpoint to %s", path)
        write(path, {"model": self.model.state_dict(), "about": self.about, **states, **kwargs})
        self.tag_last_checkpoint(os.path.basename(path))

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        with replacing(os.path.join(self.save_dir, "last_checkpoint")) as scratch:
            scratch.write_text(last_filename_basename)

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """As Detectron2's; a last checkpoint that is damaged or missing gives way to the one before it."""
        saved = saved_in(self.save_dir)
        if not resume or not saved:
            if saved and self.about:
                logger.warning(
                    "%s has checkpoints, which this training writes over; --resume goes on", self.save_dir
                )
            if resume:
                logger.info("There is no checkpoint in %s: training starts from the beginning", self.save_dir)
            return self.load(path, checkpointables=[])
        self._resumes = True

        def load(last: str) -> dict[str, Any]:
            self._parsed_url_during_load = None  # Detectron2 forgets it only where loading succeeds
            return self.load(last)

        return first_readable(saved, load)

    def has_checkpoint(self) -> bool:
        return bool(saved_in(self.save_dir))

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        with named_downloads(path):
            try:
                return super().load(path, *args, **kwargs)
            except ValueError as error:  # torch's, of the optimiser
                if "parameter group" not in str(error):
                    raise
                reason = "it was trained with other groups of parameters (optimizer.params)"
                raise UserError(f"{path} cannot be resumed: {reason}") from error

    def _load_file(self, filename: str) -> dict[str, Any]:
        content = read_detector(filename, averaged=not self._resumes)
        trainer = self.checkpointables.get("trainer")
        if self._resumes and trainer is not None and "trainer" in content:
            # Mixed precision has a loss scaler, which a training without it did not save.
            content["trainer"] = {**trainer.state_dict(), **content["trainer"]}
        return content

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        weights, about = checkpoint["model"], checkpoint.get("about", {})
        own = self.model.state_dict()
        banks = [{name for name in names if ".bank." in name} for names in (own, weights)]
        shares = [bool(bank) for bank in banks]
        if shares[1] and banks[0] != banks[1]:
            raise UserError(
                "the layers of the checkpoint share weights that the model's do not, or the other way round "
                f"({_first(sorted(banks[0] ^ banks[1]))}): take the config it was trained with, or merge it "
                "(tools/merge.py)"
            )
        if self.about:
            weights = checkpoint["model"] = self._fit_classes(weights, own, about)
        if shares == [True, False] and any(name.startswith("decoder.") for name in weights):
            if not self.factorizes:
                raise UserError(
                    "the model's layers share weights; the checkpoint, plain or merged, has no bank: "
                    "train.factorize=true starts from the nearest that they can share, tools/factorize.py "
                    "writes these to a file; model.decoder.bank=null is the config of a merged file"
                )
            checkpoint["model"] = self._factorized(weights)
        incompatible = super()._load_model(checkpoint)
        if incompatible.incorrect_shapes:
            shown = [f"{n}: file {f}, model {m}" for n, f, m in incompatible.incorrect_shapes]
            raise UserError(f"the checkpoint does not fit the model: {_first(shown)}")
        missing = {name for name in incompatible.missing_keys if not _OPTIONAL.fullmatch(name)}
        rest = {name for name in own if not name.startswith("backbone.")}
        if missing and not (self.about and missing == rest):
            raise UserError(f"the checkpoint lacks tensors of the model: {_first(sorted(missing))}")
        unknown = [name for name in incompatible.unexpected_keys if not _OPTIONAL.fullmatch(name)]
        if missing:  # The file is a backbone alone, whose last stages the model may leave out.
            stages = set(map(_stage, own))
            unknown = [name for name in unknown if _stage(name) in stages]
        if unknown:
            raise UserError(f"the model lacks tensors of the checkpoint: {_first(unknown)}")
        return incompatible

    def _fit_classes(
        self, weights: Mapping[str, Tensor], own: Mapping[str, Tensor], about: About
    ) -> dict[str, Tensor]:
        """The weights with rows of the classifiers for the model's classes: the file's or the model's own."""
        ours, theirs = self.about["names"], about.get("names")
        if theirs is None and about.get("number") == len(ours):  # a file that names none is taken at its word
            theirs = ours
        if theirs == ours or "number" not in about:
            return dict(weights)
        named = "not named" if theirs is None else _first(theirs)
        if self._resumes:
            raise UserError(
                f"--resume: the checkpoint's classes are {named}, the data's {_first(ours)}; "
                "to start from its weights take train.init_checkpoint=FILE and another train.output_dir"
            )
        places = {name: i for i, name in enumerate(theirs or ())}
        kept = [(i, places[name]) for i, name in enumerate(ours) if name in places]
        to, source = (torch.tensor([pair[k] for pair in kept], dtype=torch.long) for k in (0, 1))
        fitted = dict(weights)
        for name in filter(_CLASSIFIER.fullmatch, weights):
            if name in own and own[name].shape[1:] == weights[name].shape[1:]:
                fitted[name] = own[name].cpu().clone()
                fitted[name][to] = weights[name][source].to(fitted[name].dtype)
        logger.info(
            "Classes of the checkpoint: %s. Kept: %s. New, not yet trained: %s",
            named,
            _first([name for name in ours if name in places]) or "none",
            _first([name for name in ours if name not in places]) or "none",
        )
        return fitted

    def _factorized(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        plain = merge(self.model)
        Checkpointer(plain)._load_model({"model": weights})
        bank = self.model.decoder.bank
        nearest, explained = factorize(plain, "decoder.stages", bank.recipes, bank.only)
        share = sum(row.together for row in explained) / len(explained)
        logger.info("The nearest shared weights explain %.1f%% of the checkpoint's, on average", 100 * share)
        return nearest.state_dict()


def _stage(name: str) -> str | None:
    """`backbone.res5.` of `backbone.res5.0.conv1.weight`: what comes before the first number."""
    return found[0] if (found := _STAGE.match(name)) else None


def saved_in(folder: str) -> list[str]:
    """Checkpoints of training: the one tagged as the last, then by age."""
    if not os.path.isdir(folder):
        return []
    names = [name for name in os.listdir(folder) if re.fullmatch(r"model_(\d+|final)\.pth", name)]
    paths = [os.path.join(folder, name) for name in names]
    paths.sort(key=os.path.getmtime, reverse=True)
    tag = os.path.join(folder, "last_checkpoint")
    if os.path.isfile(tag):
        with open(tag) as file:
            last = os.path.join(folder, file.read().strip())
        paths = [last, *(path for path in paths if path != last)]
    return paths


def first_readable(saved: Sequence[str], load: Callable[[str], Result]) -> Result:
    """What `load` makes of the first checkpoint; one that is damaged or missing gives way to the next.

    Raises:
        UserError: none can be read.
    """
    for path, before in zip(saved, [*saved[1:], None]):
        try:
            if not os.path.isfile(path):
                raise FileNotFoundError(f"{path}: not found")
            return load(path)
        except (Unreadable, FileNotFoundError) as error:
            logger.warning("%s%s", error, "; the checkpoint before it is taken" if before else "")
    raise UserError(f"{os.path.dirname(saved[0])}: no checkpoint can be read")


@contextmanager
def named_downloads(path: str) -> Iterator[None]:
    """Errors of a file that is not there or cannot be downloaded name it."""
    if path and "://" not in path and not os.path.isfile(path):
        raise UserError(f"{path}: there is no such file")
    try:
        yield
    except URLError as error:  # which does not say of what
        raise OSError(f"{path} cannot be downloaded: {error.reason}") from error


def read_detector(path: str, averaged: bool = True) -> dict[str, Any]:
    """A file's content, with weights for `lors.AdaMixer` as "model" and what is known of it as "about".

    The weights are their moving average where the file has one, unless training goes on from it.
    """
    content = read(path)
    if averaged and isinstance(content.get("ema"), Mapping):
        logger.info("%s: the moving average of the weights is taken", path)
        content["model"] = {name: w for name, w in content["ema"].items() if name != "n_averaged"}
    try:
        kind, weights, unused = convert(weights_of(content))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if bad := [name for name, w in weights.items() if w.is_floating_point() and not w.isfinite().all()]:
        logger.warning("%s: %d tensors have a NaN or an infinity, the first is %s", path, len(bad), bad[0])
    logger.info("%s: %s, %d tensors; not used: %s", path, kind, len(weights), ", ".join(unused) or "none")
    known = content if kind == DETECTOR else {}
    return {**known, "model": weights, "about": about_of(content, kind, weights)}


def _first(items: Sequence[str], number: int = 4) -> str:
    more = f" and {len(items) - number} more" if len(items) > number else ""
    return "; ".join(items[:number]) + more

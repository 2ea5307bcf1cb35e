"""Features and labels as arrays: checked, and read from and written to files."""
from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import scipy.io
import torch

__all__ = ["whole_numbers", "as_features", "check_features", "load_features", "save_features"]

KEYS = ("query", "gallery", "query_ids", "gallery_ids", "query_cameras", "gallery_cameras")
MATLAB = dict(zip(KEYS, ("query_f", "gallery_f", "query_label", "gallery_label", "query_cam", "gallery_cam")))


def whole_numbers(
    values,  # whole numbers: list, numpy array or torch tensor
    name: str,  # what they are, for the message
    length: int | None = None,  # how many there must be
) -> np.ndarray:  # int64 [n]
    """Identity or camera numbers; a ValueError names what is not a flat list of whole numbers of the right length."""
    values = np.asarray(values.detach().cpu() if isinstance(values, torch.Tensor) else values)
    if values.ndim != 1 or values.dtype.kind not in "iufb":
        raise ValueError(f"{name} must be a flat list of whole numbers, not {values.dtype} of shape {values.shape}")
    if length is not None and len(values) != length:
        raise ValueError(f"{name} has {len(values)} entries for {length} images; give one for each")
    with np.errstate(invalid="ignore"): whole = values.astype(np.int64)
    if not np.array_equal(whole, values):
        raise ValueError(f"{name} must be whole numbers; found {values[whole != values][0]}")
    return whole


def as_features(
    features,  # float [images, dimensions], numpy or torch (any device)
    name: str = "features",  # what they are, for the message
    images: int | None = None,  # how many there must be
) -> torch.Tensor:  # float32 or float64, same memory where possible
    """Features as a torch matrix; a ValueError names a wrong shape or the first image with NaN or infinity."""
    if not isinstance(features, torch.Tensor):
        features = np.ascontiguousarray(features)
        if features.dtype.kind not in "fiub": raise ValueError(f"{name} must be numbers, not {features.dtype}")
    with warnings.catch_warnings():  # a read-only array is fine: it is only read
        warnings.simplefilter("ignore", UserWarning)
        features = torch.as_tensor(features).detach()
    if features.ndim != 2 or not features.shape[1]:
        raise ValueError(f"{name} must be images x dimensions, not of shape {tuple(features.shape)}")
    if images is not None and len(features) != images:
        raise ValueError(f"{name} has {len(features)} rows for {images} labels; give one for each")
    if features.dtype != torch.float64: features = features.float()
    bad = ~torch.isfinite(torch.linalg.vector_norm(features, dim=1))
    if bad.any(): raise ValueError(f"{name} row {int(bad.nonzero()[0, 0])} holds NaN, infinity or a number too large to square")
    return features


def check_features(arrays: dict) -> None:  # arguments of `evaluate_retrieval`
    """A ValueError names what is missing, misshapen, not whole or not finite."""
    missing = [key for key in KEYS[:4] if key not in arrays]
    if missing: raise ValueError(f"lacks {', '.join(missing)}; it must hold {', '.join(KEYS)} (cameras may be left out on both sides)")
    dimensions = {}
    for side in ("query", "gallery"):
        labels = whole_numbers(arrays[f"{side}_ids"], f"{side}_ids")
        dimensions[side] = as_features(arrays[side], side, len(labels)).shape[1]
        if f"{side}_cameras" in arrays: whole_numbers(arrays[f"{side}_cameras"], f"{side}_cameras", len(labels))
        elif f"{'gallery' if side == 'query' else 'query'}_cameras" in arrays:
            raise ValueError(f"{side}_cameras is missing: give the cameras of both sides or of neither")
    if dimensions["query"] != dimensions["gallery"]:
        raise ValueError(f"query features have {dimensions['query']} dimensions, gallery features {dimensions['gallery']}")


def _read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz or .mat file under our names; a ValueError if the file is neither or damaged."""
    try:
        if path.suffix == ".mat":
            found = scipy.io.loadmat(path)
            return {key: found[name] if name.endswith("_f") else found[name].ravel() for key, name in MATLAB.items() if name in found}
        with np.load(path, allow_pickle=False) as found: return {key: found[key] for key in KEYS if key in found}
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise FileNotFoundError(f"there is no file {path}; it must hold {', '.join(KEYS)} (the cameras both or neither)") from error
        raise ValueError(f"{path} cannot be read ({error})") from error
    except Exception as error:
        raise ValueError(f"{path} is neither an .npz nor a .mat file of plain arrays, or is damaged") from error


def load_features(
    path: str | Path,  # .npz with query, gallery, query_ids, gallery_ids, and query_cameras, gallery_cameras or neither; or .mat
) -> dict[str, np.ndarray]:  # arguments of `evaluate_retrieval`
    """Read features and labels, checked; a FileNotFoundError or a ValueError names what is missing, misshapen or not finite."""
    arrays = _read(Path(path))
    try: check_features(arrays)
    except ValueError as error: raise ValueError(f"{path}: {error}") from error
    return arrays


def save_features(
    path: str | Path,  # .npz file to write; its folder must exist
    **arrays,  # query, gallery, query_ids, gallery_ids, query_cameras, gallery_cameras, numpy or torch
) -> Path:  # the file
    """Write features so that `load_features` reads them back; the file is there whole or not at all."""
    unknown = set(arrays) - set(KEYS)
    if unknown: raise ValueError(f"unknown arrays {', '.join(sorted(unknown))}; valid: {', '.join(KEYS)}")
    path = Path(path)
    check_features(arrays)
    part = path.with_name(f".{path.name}.{os.getpid()}.part.npz")
    try:
        np.savez(part, **{key: value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value) for key, value in arrays.items()})
        os.replace(part, path)
    finally: part.unlink(missing_ok=True)
    return path

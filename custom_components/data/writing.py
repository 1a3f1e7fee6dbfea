"""NIfTI files that are there whole or not at all."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from monai.data import NibabelWriter

from custom_components.atomic import atomic_path

__all__ = ["AtomicNiftiWriter"]

logger = logging.getLogger(__name__)


class AtomicNiftiWriter(NibabelWriter):
    """MONAI's NIfTI writer, for ``SaveImaged(writer="custom_components.data.AtomicNiftiWriter")``: no half-written file.

    The file is written under a temporary name beside its place, then renamed; a reader sees the old file or the new.
    """

    @classmethod
    def resample_if_needed(  # type: ignore[override]  # the options are passed on by name
        cls, data_array: Any, affine: Any = None, target_affine: Any = None, output_spatial_shape: Any = None, **options: Any
    ) -> tuple[Any, Any]:
        """As MONAI's, except that nothing happens where no other grid is asked for.

        MONAI 1.6 takes a volume without channels for a 2-D image there (Project-MONAI/MONAI, issue 9068) and resamples it
        by two rows of its affine: a wrong shape, or "not invertible" for a sagittal image.
        """
        if target_affine is None and output_spatial_shape is None:
            return data_array, affine
        return super().resample_if_needed(data_array, affine, target_affine, output_spatial_shape, **options)

    @classmethod
    def create_backend_obj(cls, data_array: Any, affine: Any = None, dtype: Any = None, **options: Any) -> Any:
        """As MONAI's, with ``descrip`` (80 ASCII characters at most) in the header's field of that name."""
        descrip = options.pop("descrip", "")
        image = super().create_backend_obj(data_array, affine, dtype, **options)
        image.header["descrip"] = descrip.encode("ascii", "replace")[:80]
        return image

    def write(self, filename: str | os.PathLike[str], verbose: bool = False, **obj_kwargs: Any) -> None:
        """Write the data set before; ``descrip`` as in `create_backend_obj`.

        Raises:
            InputError: the folder cannot be written to.
        """
        with atomic_path(Path(filename)) as temporary:
            super().write(temporary, verbose=False, **obj_kwargs)
        if verbose:  # MONAI's own message would name the temporary file
            logger.info(f"written: {filename}")

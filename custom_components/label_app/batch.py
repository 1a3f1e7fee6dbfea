"""Batch inference that goes on after an image that cannot be used, and runs on a machine without a GPU."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from fastapi import HTTPException
from monailabel.interfaces.tasks.batch_infer import BatchInferTask

__all__ = ["BatchTask"]

logger = logging.getLogger(__name__)


class BatchTask(BatchInferTask):
    """MONAI Label's, which ends at the first image that fails, and divides by the number of GPUs (``multi_gpu``)."""

    def __call__(self, request: dict[str, Any], datastore: Any, infer: Callable[..., dict[str, Any]]) -> dict[str, Any]:
        """
        Returns:
            Image id to what the inference returned, or to ``{"error": why it cannot be used}``.
        """
        if not torch.cuda.is_available():
            request = {**request, "multi_gpu": False}

        def each(one: dict[str, Any], store: Any) -> dict[str, Any]:
            try:
                return infer(one, store)
            except HTTPException as error:
                logger.warning("%s: no label (%s)", one.get("image"), error.detail)
                return {"error": error.detail}

        result: dict[str, Any] = super().__call__(request, datastore, each)
        failed = sorted(name for name, value in result.items() if not value or "error" in value)
        logger.info("labels of %d of %d images; without: %s", len(result) - len(failed), len(result), ", ".join(failed) or "none")
        return result

"""What MONAI's engines need to know about domains: losses, reproducible draws, checkpoints, scores, pictures."""

from custom_components.training.checkpoints import BestWeights, Resume
from custom_components.training.draws import DrawSampler, SeededDraws
from custom_components.training.handlers import ClipGradients, EpochSeed, PlateauOfAverage, Progress
from custom_components.training.losses import DeepSupervised, FocalLovaszLoss, focal, lovasz_softmax
from custom_components.training.metrics import METRICS, score_case, summarise
from custom_components.training.pictures import Overlays, overlay, score_picture
from custom_components.training.scoring import CaseScores, write_scores

__all__ = [
    "METRICS",
    "BestWeights",
    "CaseScores",
    "ClipGradients",
    "DeepSupervised",
    "DrawSampler",
    "EpochSeed",
    "FocalLovaszLoss",
    "Overlays",
    "PlateauOfAverage",
    "Progress",
    "Resume",
    "SeededDraws",
    "focal",
    "lovasz_softmax",
    "overlay",
    "score_case",
    "score_picture",
    "summarise",
    "write_scores",
]

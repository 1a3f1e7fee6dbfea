"""What MONAI's engines need to know about domains: losses, reproducible draws, checkpoints, scores, pictures."""

from custom_components.training.checkpoints import BestWeights, Resume
from custom_components.training.domain_losses import DomainLosses
from custom_components.training.domain_sets import DomainSet, DomainSets
from custom_components.training.domain_steps import DomainInferer, DomainOverlays, DomainPostprocessing, DomainScores
from custom_components.training.draws import DomainBatches, DrawSampler, SeededDraws
from custom_components.training.groups import parameter_groups
from custom_components.training.handlers import ClipGradients, EpochSeed, PlateauOfAverage, Progress
from custom_components.training.losses import DeepSupervised, FocalLovaszLoss, focal, lovasz_softmax
from custom_components.training.metrics import METRICS, score_case, summarise
from custom_components.training.pictures import Overlays, overlay, score_picture
from custom_components.training.scoring import CaseScores, write_scores
from custom_components.training.turns import BySize, RoundRobin

__all__ = [
    "METRICS",
    "BestWeights",
    "BySize",
    "CaseScores",
    "ClipGradients",
    "DeepSupervised",
    "DomainBatches",
    "DomainInferer",
    "DomainLosses",
    "DomainOverlays",
    "DomainPostprocessing",
    "DomainScores",
    "DomainSet",
    "DomainSets",
    "DrawSampler",
    "EpochSeed",
    "FocalLovaszLoss",
    "Overlays",
    "PlateauOfAverage",
    "Progress",
    "Resume",
    "RoundRobin",
    "SeededDraws",
    "focal",
    "lovasz_softmax",
    "overlay",
    "parameter_groups",
    "score_case",
    "score_picture",
    "summarise",
    "write_scores",
]

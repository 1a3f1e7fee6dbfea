"""Hot loops, one public function each; torch forms are the reference."""

from custom_components.kernels.depthwise import depthwise_conv3d, depthwise_conv3d_reference
from custom_components.kernels.filter_norm import Norm, filter_norm_act, filter_norm_act_reference
from custom_components.kernels.norm import instance_norm_act, instance_norm_act_reference
from custom_components.kernels.pointwise import pointwise_conv3d, pointwise_conv3d_reference

__all__ = [
    "Norm",
    "depthwise_conv3d",
    "depthwise_conv3d_reference",
    "filter_norm_act",
    "filter_norm_act_reference",
    "instance_norm_act",
    "instance_norm_act_reference",
    "pointwise_conv3d",
    "pointwise_conv3d_reference",
]

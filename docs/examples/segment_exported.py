"""Segment an image with a file that scripts/export_domain.py wrote; neither bundle nor weights are needed.

python docs/examples/segment_exported.py hippocampus.onnx IMAGE.nii.gz LABEL.nii.gz
"""

import sys

from custom_components.errors import InputError
from custom_components.exports import load_exported
from custom_components.inference import Segmenter


def segment(file: str, image: str, label: str) -> None:
    network = load_exported(file)
    # The file describes its domain, from which everything before and after the network follows: orientation, spacing,
    # intensities, windows, components, and the way back to the image's own grid.
    segmenter = Segmenter(network.domain, network, device="cpu")
    result = segmenter.segment(image)
    result.save(label)
    for name, volume in result.volumes.items():
        print(f"{name}: {volume:.0f} mm³")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    try:
        segment(*sys.argv[1:])
    except InputError as error:
        sys.exit(f"Error: {error}")

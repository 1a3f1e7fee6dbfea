"""Universal 3D medical image segmentation: one trunk for all domains, one small adapter each.

The package holds what a bundle's JSON names in ``_target_``. Importing it costs nothing; import the sub-package you
need: `custom_components.domain`, ``networks``, ``transforms``, ``data``, ``inference``, ``training``, ``weights``.
"""

__version__ = "0.2.0"

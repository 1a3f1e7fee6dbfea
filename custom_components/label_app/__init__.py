"""An app for MONAI Label: the bundles of a collection as models, a domain selector, adapters trained from the server.

``main.py`` is what MONAI Label loads; ``scripts/serve.sh`` starts it. `collection`, `own_copy`, `corrected` and `callers` know
nothing of MONAI Label; it has an environment of its own (requirements-label.txt) and is imported by the others.
"""

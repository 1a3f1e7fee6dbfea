"""Bundles that travel: packaged in one file with a manifest, signed, verified, unpacked with care."""
